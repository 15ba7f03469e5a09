"""One model's engine among others: who uses it, since when nobody does, what it holds."""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from appliance.domain.models import ModelFile
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.supervision.request_limit import Admission
from plugins.providers.llama_cpp.supervision.supervisor import Embedder, Phase, Writer


class Tenant:
    """A model's supervisor, and who is admitted to it.

    `on_idle` is called when nobody has used it for `idle_s` seconds (0: never).
    """

    def __init__(
        self,
        supervisor: Writer | Embedder,
        admission: Admission,
        *,
        idle_s: float,
        on_idle: Callable[["Tenant"], None],
    ) -> None:
        self.supervisor = supervisor
        self.admission = admission
        self.last_used = time.monotonic()
        self._users = 0
        self._idle_s, self._on_idle = idle_s, on_idle
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def file(self) -> ModelFile:
        return self.supervisor.file

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody uses it."""
        return self.supervisor.phase is Phase.READY and not self._users

    @property
    def held_bytes(self) -> int:
        return self.supervisor.held_bytes

    def writer(self) -> Writer:
        """Raises InvalidInput for a model that makes vectors."""
        if isinstance(self.supervisor, Writer):
            return self.supervisor
        raise InvalidInput.at("model", f"{self.file.alias!r} makes embeddings; it writes no text")

    def embedder(self) -> Embedder:
        """Raises InvalidInput for a model that writes text."""
        if isinstance(self.supervisor, Embedder):
            return self.supervisor
        raise InvalidInput.at("model", f"{self.file.alias!r} writes text; it makes no embeddings")

    @contextmanager
    def using(self) -> Generator[None]:
        """For the time of one request: the engine is not unloaded meanwhile."""
        self._users += 1
        self._disarm()
        try:
            yield
        finally:
            self._users -= 1
            self.rest()

    def rest(self) -> None:
        """Count the time from here, if nobody uses it."""
        self.last_used = time.monotonic()
        self._disarm()
        if self.idle and self._idle_s:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._idle_s, self._on_idle, self)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
