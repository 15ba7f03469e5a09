"""Keeps one model's engine: starts it when needed, notices its end, and says why."""

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import Any, Generic

import structlog

from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError, ModelUnavailable
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.host import host_resources
from plugins.providers.llama_cpp.host.exit_diagnosis import without_folders
from plugins.providers.llama_cpp.protocol.messages import Configure, Ready
from plugins.providers.llama_cpp.supervision.answer_stream import LinkError
from plugins.providers.llama_cpp.supervision.backoff import Backoff
from plugins.providers.llama_cpp.supervision.connection import Link
from plugins.providers.llama_cpp.supervision.embedding_connection import VectorLink
from plugins.providers.llama_cpp.supervision.engine_process import Child, ChildError, spawn
from plugins.providers.llama_cpp.supervision.engine_types import House, Loaded, NoRoom, WireT
from plugins.providers.llama_cpp.supervision.options import Options

_log = structlog.get_logger()
_STALL_S = 180.0
_STALL_CHECK_S = 5.0


class Phase(Enum):
    UNLOADED = auto()
    LOADING = auto()
    READY = auto()
    ENDING = auto()
    FAILED = auto()


class Supervisor(ABC, Generic[WireT]):
    """The engine of one model file."""

    def __init__(
        self, context: PluginContext, options: Options, file: ModelFile, house: House
    ) -> None:
        self.file = file
        self.resident = host_resources.Resident()
        self.reserved_bytes = 0
        self._house = house
        self._expected_s, self._loading_since = 0.0, 0.0
        self._details: dict[str, Any] = {}
        self.phase = Phase.UNLOADED
        self.problem = ""
        self.ready: Ready | None = None
        self.speed: float | None = None
        self._backoff = Backoff()
        self._context, self._options = context, options
        self._settled = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._wire: WireT | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process id, while there is one."""
        return self._child.pid if self._child else None

    @property
    def held_bytes(self) -> int:
        """Memory that is set aside for it while it loads, or that it has."""
        return self.resident.all or self.reserved_bytes

    @property
    def expected_s(self) -> float:
        """How much longer loading will take, by the last time or by the file's size."""
        return max(1.0, self._expected_s - (time.monotonic() - self._loading_since))

    async def link(self) -> WireT:
        """The connection to a ready engine, started if need be.

        Raises ModelUnavailable with the reason, and with how long to wait when it
        ended several times in a row.
        """
        while self.phase is Phase.ENDING and self._life is not None:
            await asyncio.wait({self._life})
        if self.phase in {Phase.UNLOADED, Phase.FAILED}:
            self._start()
        await self._settled.wait()
        if self.phase is not Phase.READY or self._wire is None:
            raise self._unavailable()
        return self._wire

    def worked(self, link: WireT) -> None:
        """An answer was completed over this link."""
        self._backoff.worked()
        self.speed = link.speed or self.speed

    async def stop(self) -> None:
        """End the engine and wait until it is gone; open answers fail with LinkError."""
        life = self._life
        if life is not None and not life.done():
            self.phase = Phase.ENDING
            life.cancel()
            await asyncio.wait({life})
        # Somebody may have needed it again meanwhile.
        if self._life is life:
            self.phase, self.problem, self._life = Phase.UNLOADED, "", None

    def _start(self) -> None:
        if self._backoff.remaining_s > 0:
            raise self._unavailable()
        self.phase, self._details = Phase.LOADING, {}
        self._settled.clear()
        self._life = asyncio.create_task(self._live(), name=f"engine of {self.file.alias}")

    async def _live(self) -> None:
        """One life of an engine, from its start to its end."""
        lost, was_ready = LinkError("the engine was stopped", can_retry=False), False
        try:
            link = await self._load()
            was_ready = True
            lost = LinkError(await self._serve(link))
        except NoRoom as error:
            # Others may go any moment: no reason to wait before the next try.
            lost, self._details = LinkError(error.message, can_retry=False), error.details
        except ApplianceError as error:
            lost = LinkError(error.message)
        except (ChildError, OSError) as error:
            lost = LinkError(without_folders(str(error)))
        finally:
            await self._bury(lost, was_ready=was_ready)

    async def _load(self) -> WireT:
        """Check the file, make room, start. Raises ChildError or ApplianceError."""
        records = self._house.records
        self._loading_since = time.monotonic()
        self._expected_s = await records.expected_load_s(self.file)
        file = await self._context.models.check(self.file.alias)
        claim = await self._house.make_room(file)
        self.reserved_bytes = claim.reserved
        self._loading_since = time.monotonic()
        configure = await self._configure(claim.granted)
        link, child, ready = await self._started(configure)
        self.ready, self.resident = ready, host_resources.resident(child.pid)
        taken = time.monotonic() - self._loading_since
        self.phase, self.problem = Phase.READY, ""
        self._settled.set()
        if ready.breaches:
            _log.warning("engine not fully confined", model=file.alias, missing=ready.breaches)
        self._house.on_ready(Loaded(file, ready, self.resident.all, taken))
        return link

    async def _configure(self, granted: int) -> Configure:
        options, known = self._options, await self._house.records.of(self.file)
        if known is not None and not (known.decode_tokens_per_second and known.row_costs):
            known = None  # it was loaded, but nothing could be measured then
        return Configure(
            path=self.file.path,
            context_tokens=options.context_tokens,
            threads=known.threads if known else options.threads,
            max_sequences=options.max_sequences,
            chunk=known.chunk if known else 0,
            probe=known is None and not self.file.embeds,
            memory_bytes=granted,
            gpu_layers=options.gpu_layers,
            embeds=self.file.embeds,
            row_costs=known.row_costs if known else (),
        )

    async def _started(self, configure: Configure) -> tuple[WireT, Child, Ready]:
        limit = self._options.load_timeout_s
        try:
            async with asyncio.timeout(limit):
                child, connection = await spawn(self._context)
                self._child = child
                link = self._wire = await self._connected(connection)
                return link, child, await self._configured(child, link, configure)
        except TimeoutError as error:
            raise ChildError(
                f"it took longer than {limit:g} s to load: choose a smaller model, or raise "
                "models.load_timeout_s"
            ) from error

    @abstractmethod
    async def _connected(self, connection: socket.socket) -> WireT:
        """The connection of this kind of engine, over its socket."""

    async def _configured(self, child: Child, link: WireT, configure: Configure) -> Ready:
        try:
            answer = await link.configure(configure)
        except LinkError as error:
            raise ChildError(await child.why_it_ended()) from error
        if not isinstance(answer, Ready):
            raise ChildError(without_folders(answer.reason))
        return answer

    async def _serve(self, link: WireT) -> str:
        """Until the engine ends or hangs; returns why."""
        reading = asyncio.create_task(link.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=_STALL_CHECK_S)
                if link.silence_s > _STALL_S:
                    return f"the engine made no progress for {_STALL_S:g} s"
            reading.exception()  # always LinkError; the process knows better why
            self.phase = Phase.ENDING
            return await self._why()
        finally:
            reading.cancel()

    async def _why(self) -> str:
        return await self._child.why_it_ended() if self._child else ""

    async def _bury(self, lost: LinkError, *, was_ready: bool) -> None:
        """Nothing of the engine is left afterwards; whoever waits for it learns why."""
        self.phase = Phase.ENDING
        child, wire = self._child, self._wire
        if child is not None:
            await child.kill()
        self._child = self._wire = self.ready = None
        self.resident, self.reserved_bytes = host_resources.Resident(), 0
        if lost.can_retry:
            self._backoff.ended(was_ready=was_ready)
        self.phase, self.problem = Phase.FAILED, str(lost)
        self._settled.set()
        _log.info("engine ended", model=self.file.alias, reason=self.problem)
        if wire is not None:
            wire.fail(lost)

    def _unavailable(self) -> ModelUnavailable:
        wait = self._backoff.remaining_s
        return ModelUnavailable(
            f"the model {self.file.alias!r} can't be served: {self.problem or 'it was unloaded'}",
            details={"model": self.file.alias, **self._details},
            retry_after=wait or None,
        )


class Writer(Supervisor[Link]):
    """Of a model that writes text."""

    async def _connected(self, connection: socket.socket) -> Link:
        return await Link.over(connection)


class Embedder(Supervisor[VectorLink]):
    """Of a model that makes vectors."""

    async def _connected(self, connection: socket.socket) -> VectorLink:
        return await VectorLink.over(connection)
