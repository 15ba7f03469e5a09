"""Keeps one model's engine: starts it when needed, notices its end, and says why."""

import asyncio
from enum import Enum, auto

import structlog

from appliance.domain.models import ModelFile
from appliance.errors import ModelUnavailable
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.advice import without_folders
from plugins.providers.llama_cpp.answer import LinkError
from plugins.providers.llama_cpp.backoff import Backoff
from plugins.providers.llama_cpp.child import Child, ChildError, spawn
from plugins.providers.llama_cpp.link import Link
from plugins.providers.llama_cpp.options import Options
from plugins.providers.llama_cpp.protocol import Configure, Ready

_log = structlog.get_logger()
_STALL_S = 180.0
_STALL_CHECK_S = 5.0


class Phase(Enum):
    UNLOADED = auto()
    LOADING = auto()
    READY = auto()
    ENDING = auto()
    FAILED = auto()


class Supervisor:
    """The engine of one model file."""

    def __init__(self, context: PluginContext, options: Options, file: ModelFile) -> None:
        self.file = file
        self.phase = Phase.UNLOADED
        self.problem = ""
        self.ready: Ready | None = None
        self.speed: float | None = None
        self._backoff = Backoff()
        self._context, self._options = context, options
        self._settled = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._wire: Link | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process id, while there is one."""
        return self._child.pid if self._child else None

    async def link(self) -> Link:
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

    def worked(self, link: Link) -> None:
        """An answer was completed over this link."""
        self._backoff.worked()
        self.speed = link.speed or self.speed

    async def stop(self) -> None:
        """End the engine and wait until it is gone; open answers fail with LinkError."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        self.phase, self.problem, self._life = Phase.UNLOADED, "", None

    def _start(self) -> None:
        if self._backoff.remaining_s > 0:
            raise self._unavailable()
        self.phase = Phase.LOADING
        self._settled.clear()
        self._life = asyncio.create_task(self._live(), name=f"engine of {self.file.alias}")

    async def _live(self) -> None:
        """One life of an engine, from its start to its end."""
        lost, was_ready = LinkError("the engine was stopped", can_retry=False), False
        try:
            link = await self._load()
            was_ready = True
            lost = LinkError(await self._serve(link))
        except (ChildError, OSError) as error:
            lost = LinkError(without_folders(str(error)))
        finally:
            await self._bury(lost, was_ready=was_ready)

    async def _load(self) -> Link:
        """Raises ChildError."""
        limit = self._options.load_timeout_s
        try:
            async with asyncio.timeout(limit):
                self._child, connection = await spawn(self._context)
                link = self._wire = await Link.over(connection)
                self.ready = await self._configured(self._child, link)
        except TimeoutError as error:
            raise ChildError(
                f"it took longer than {limit:g} s to load: choose a smaller model, or raise "
                "models.load_timeout_s"
            ) from error
        self.phase, self.problem = Phase.READY, ""
        self._settled.set()
        return link

    async def _configured(self, child: Child, link: Link) -> Ready:
        options = self._options
        configure = Configure(
            path=self.file.path,
            context_tokens=options.context_tokens,
            threads=options.threads,
            max_sequences=options.max_sequences,
        )
        try:
            answer = await link.configure(configure)
        except LinkError as error:
            raise ChildError(await child.why_it_ended()) from error
        if not isinstance(answer, Ready):
            raise ChildError(without_folders(answer.reason))
        return answer

    async def _serve(self, link: Link) -> str:
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
            details={"model": self.file.alias},
            retry_after=wait or None,
        )
