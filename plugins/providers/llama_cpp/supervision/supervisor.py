"""Supervises one model's engine process: starts it on demand, watches it, explains its end.

One run of an engine is one task (`_run_engine`): it checks the file, reserves memory,
spawns the process, waits for `Ready`, then reads until the engine ends, stalls or is
stopped. Whatever ends it, `_clean_up` kills the process, releases the memory and fails the
open requests. After repeated failures a restart is delayed, see `Backoff`, unless the file has
changed since.
"""

import asyncio
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from msgspec import Struct

from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError, ModelUnavailable
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.host.exit_diagnosis import strip_folders
from plugins.providers.llama_cpp.host.process_memory import ResidentMemory, read_resident_memory
from plugins.providers.llama_cpp.protocol.messages import Configure, Ready
from plugins.providers.llama_cpp.supervision.backoff import Backoff
from plugins.providers.llama_cpp.supervision.completion_connection import CompletionConnection
from plugins.providers.llama_cpp.supervision.embedding_connection import EmbeddingConnection
from plugins.providers.llama_cpp.supervision.engine_connection import EngineConnection
from plugins.providers.llama_cpp.supervision.engine_process import (
    EngineProcess,
    EngineProcessError,
    spawn_engine,
)
from plugins.providers.llama_cpp.supervision.engine_types import (
    EngineLostError,
    InsufficientMemory,
    LoadResult,
    MemoryReservation,
)
from plugins.providers.llama_cpp.supervision.load_profiles import LoadProfiles
from plugins.providers.llama_cpp.supervision.options import Options

_log = structlog.get_logger()
_STALL_S = 180.0
_STALL_CHECK_S = 5.0

_FileStamp = tuple[int, int, int] | None
ConnectionT = TypeVar("ConnectionT", bound=EngineConnection[Any])


class Phase(Enum):
    UNLOADED = auto()
    LOADING = auto()
    READY = auto()
    STOPPING = auto()
    FAILED = auto()


class SupervisorDeps(Struct, frozen=True):
    """What a supervisor needs of the pool.

    `reserve_memory` raises InsufficientMemory. `on_ready` is called after each load, `on_speed`
    with the first decode speed, in tokens per second, that is measured in use.
    """

    load_profiles: LoadProfiles
    reserve_memory: Callable[[ModelFile], Awaitable[MemoryReservation]]
    on_ready: Callable[[LoadResult], None]
    on_speed: Callable[[ModelFile, float], None]


class Supervisor(ABC, Generic[ConnectionT]):
    """The engine of one model file.

    `problem` says why the engine is not running, `ready` is what it reported once loaded,
    `decode_speed` its latest decode speed in tokens per second. `restartable`: it was ready, and
    no start has failed or is delayed since.
    """

    def __init__(
        self, context: PluginContext, options: Options, file: ModelFile, deps: SupervisorDeps
    ) -> None:
        self.file = file
        self.resident = ResidentMemory()
        self.phase = Phase.UNLOADED
        self.problem = ""
        self.ready: Ready | None = None
        self.decode_speed: float | None = None
        self.restartable = False
        self._context, self._options, self._deps = context, options, deps
        self._reserved_bytes = 0
        self._expected_load_s, self._loading_since = 0.0, 0.0
        self._problem_details: dict[str, Any] = {}
        self._backoff = Backoff()
        self._load_stamp: _FileStamp = None
        self._load_finished = asyncio.Event()
        self._engine_task: asyncio.Task[None] | None = None
        self._process: EngineProcess | None = None
        self._connection: ConnectionT | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process id, while it runs."""
        return self._process.pid if self._process else None

    @property
    def memory_bytes(self) -> int:
        """The memory that the engine uses, or that is reserved while it loads."""
        return self.resident.total or self._reserved_bytes

    @property
    def remaining_load_s(self) -> float:
        """How much longer loading will take, by the last load or by the file's size."""
        return max(1.0, self._expected_load_s - (time.monotonic() - self._loading_since))

    async def connect(self) -> ConnectionT:
        """The connection to the ready engine, which is started if it does not run.

        Raises ModelUnavailable with the reason, and with `retry_after` while a restart is
        delayed.
        """
        while self.phase is Phase.STOPPING and self._engine_task is not None:
            await asyncio.wait({self._engine_task})
        if self.phase in {Phase.UNLOADED, Phase.FAILED}:
            self._start_engine()
        await self._load_finished.wait()
        if self.phase is not Phase.READY or self._connection is None:
            raise self._unavailable()
        return self._connection

    def record_success(self, connection: ConnectionT) -> None:
        """A request was served over this connection."""
        self._backoff.reset()
        if connection.decode_speed and self.decode_speed is None:
            self._deps.on_speed(self.file, connection.decode_speed)
        self.decode_speed = connection.decode_speed or self.decode_speed

    async def stop(self) -> None:
        """End the engine and wait until it is gone; open requests fail with EngineLostError."""
        task = self._engine_task
        if task is not None and not task.done():
            self.phase = Phase.STOPPING
            task.cancel()
            await asyncio.wait({task})
        # Another request may have started it again meanwhile.
        if self._engine_task is task:
            self.phase, self.problem, self._engine_task = Phase.UNLOADED, "", None

    def _start_engine(self) -> None:
        # A file that was changed since is a reason to try at once.
        if self._backoff.remaining_s > 0 and self._load_stamp == _read_stamp(self.file):
            raise self._unavailable()
        self.phase, self._problem_details = Phase.LOADING, {}
        self._load_finished.clear()
        name = f"engine of {self.file.alias}"
        self._engine_task = asyncio.create_task(self._run_engine(), name=name)

    async def _run_engine(self) -> None:
        """One run of the engine, from its start to its end."""
        lost, was_ready = EngineLostError("the engine was stopped", deliberate=True), False
        try:
            connection = await self._load()
            was_ready = True
            lost = await self._watch(connection)
        except InsufficientMemory as error:
            # Other engines may be unloaded at any moment: no delay before the next try.
            lost = EngineLostError(error.message, deliberate=True)
            self._problem_details = error.details
        except ApplianceError as error:
            lost = EngineLostError(error.message)
        except (EngineProcessError, OSError) as error:
            lost = EngineLostError(strip_folders(str(error)))
        finally:
            await self._clean_up(lost, was_ready=was_ready)

    async def _load(self) -> ConnectionT:
        """Check the file, reserve memory, start. Raises EngineProcessError or ApplianceError."""
        self._loading_since = time.monotonic()
        self._load_stamp = _read_stamp(self.file)
        self._expected_load_s = await self._deps.load_profiles.estimate_load_s(self.file)
        file = await self._context.models.check(self.file.alias)
        reservation = await self._deps.reserve_memory(file)
        self._reserved_bytes = reservation.reserved_bytes
        self._loading_since = time.monotonic()
        configure = await self._build_configure(reservation.usable_bytes)
        connection, process, ready = await self._start_process(configure)
        self.ready, self.resident = ready, read_resident_memory(process.pid)
        seconds = time.monotonic() - self._loading_since
        self.phase, self.problem, self.restartable = Phase.READY, "", True
        self._load_finished.set()
        if ready.confinement_gaps:
            _log.warning(
                "engine not fully confined", model=file.alias, missing=ready.confinement_gaps
            )
        self._deps.on_ready(LoadResult(file, ready, self.resident.total, seconds))
        return connection

    async def _build_configure(self, memory_bytes: int) -> Configure:
        options, profile = self._options, await self._deps.load_profiles.find(self.file)
        if profile is not None and not (profile.decode_tokens_per_second and profile.row_costs):
            profile = None  # that load could not measure anything
        return Configure(
            path=self.file.path,
            context_tokens=options.context_tokens,
            threads=profile.threads if profile else options.threads,
            max_sequences=options.max_sequences,
            chunk=profile.chunk if profile else 0,
            probe=profile is None and not self.file.embeds,
            memory_bytes=memory_bytes,
            gpu_layers=options.gpu_layers,
            embeds=self.file.embeds,
            row_costs=profile.row_costs if profile else (),
        )

    async def _start_process(
        self, configure: Configure
    ) -> tuple[ConnectionT, EngineProcess, Ready]:
        limit = self._options.load_timeout_s
        try:
            async with asyncio.timeout(limit):
                process, engine_socket = await spawn_engine(self._context)
                self._process = process
                connection = self._connection = await self._open_connection(engine_socket)
                ready = await self._configure_engine(process, connection, configure)
                return connection, process, ready
        except TimeoutError as error:
            raise EngineProcessError(
                f"loading took longer than {limit:g} s: choose a smaller model, or raise "
                "models.load_timeout_s"
            ) from error

    @abstractmethod
    async def _open_connection(self, engine_socket: socket.socket) -> ConnectionT:
        """This kind of engine's connection over the socket."""

    async def _configure_engine(
        self, process: EngineProcess, connection: ConnectionT, configure: Configure
    ) -> Ready:
        try:
            reply = await connection.configure(configure)
        except EngineLostError as error:
            raise EngineProcessError(await process.exit_reason()) from error
        if not isinstance(reply, Ready):
            raise EngineProcessError(strip_folders(reply.reason))
        return reply

    async def _watch(self, connection: ConnectionT) -> EngineLostError:
        """Wait until the engine ends or stalls; returns the reason.

        What ran at a stall may have caused it, so it is not tried again.
        """
        reading = asyncio.create_task(connection.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_STALL_CHECK_S)
                if connection.silence_s > _STALL_S:
                    return EngineLostError(
                        f"the engine made no progress for {_STALL_S:g} s", stalled=True
                    )
            reading.exception()  # always EngineLostError; the process has the better reason
            self.phase = Phase.STOPPING
            return EngineLostError(await self._process.exit_reason() if self._process else "")
        finally:
            reading.cancel()

    async def _clean_up(self, lost: EngineLostError, *, was_ready: bool) -> None:
        """Kill the process, release the memory, fail the requests that are open or waiting."""
        self.phase = Phase.STOPPING
        process, connection = self._process, self._connection
        if process is not None:
            await process.kill()
        self._process = self._connection = self.ready = None
        self.resident, self._reserved_bytes = ResidentMemory(), 0
        if not lost.deliberate:
            self._backoff.record_end(was_ready=was_ready)
        self.restartable = was_ready and not self._backoff.remaining_s
        self.phase, self.problem = Phase.FAILED, str(lost)
        self._load_finished.set()
        report = _log.info if lost.deliberate else _log.warning
        report("engine ended", model=self.file.alias, reason=self.problem)
        if connection is not None:
            connection.fail(lost)

    def _unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"the model {self.file.alias!r} can't be served: {self.problem or 'it was unloaded'}",
            details={"model": self.file.alias, **self._problem_details},
            retry_after=self._backoff.remaining_s or None,
        )


class CompletionSupervisor(Supervisor[CompletionConnection]):
    """Supervises the engine of a text model."""

    async def _open_connection(self, engine_socket: socket.socket) -> CompletionConnection:
        return await CompletionConnection.open(engine_socket)


class EmbeddingSupervisor(Supervisor[EmbeddingConnection]):
    """Supervises the engine of an embedding model."""

    async def _open_connection(self, engine_socket: socket.socket) -> EmbeddingConnection:
        return await EmbeddingConnection.open(engine_socket)


def _read_stamp(file: ModelFile) -> _FileStamp:
    """Changes when the file is replaced or repaired; None while it can't be read."""
    try:
        with Path(file.path).open("rb") as opened:
            status = os.fstat(opened.fileno())
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
