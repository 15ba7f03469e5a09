"""One model's place in the engine pool: its supervisor, its request limit, its idle timer."""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from appliance.domain.models import ModelFile
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.supervision.request_limit import RequestLimit
from plugins.providers.llama_cpp.supervision.supervisor import (
    CompletionSupervisor,
    EmbeddingSupervisor,
    Phase,
)


class EngineSlot:
    """A model's supervisor and the requests that use it: completions or embeddings, and counts.

    `on_idle` is called when no request has used it for `idle_s` seconds (0: never).
    """

    def __init__(
        self,
        supervisor: CompletionSupervisor | EmbeddingSupervisor,
        request_limit: RequestLimit,
        count_limit: RequestLimit,
        *,
        idle_s: float,
        on_idle: Callable[["EngineSlot"], None],
    ) -> None:
        self.supervisor = supervisor
        self.request_limit, self.count_limit = request_limit, count_limit
        self.last_used = time.monotonic()
        self._active_requests = 0
        self._idle_s, self._on_idle = idle_s, on_idle
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def file(self) -> ModelFile:
        return self.supervisor.file

    @property
    def idle(self) -> bool:
        """Whether the engine is loaded and no request uses it."""
        return self.supervisor.phase is Phase.READY and not self._active_requests

    @property
    def memory_bytes(self) -> int:
        return self.supervisor.memory_bytes

    def completion_supervisor(self) -> CompletionSupervisor:
        """Raises InvalidInput for an embedding model."""
        if isinstance(self.supervisor, CompletionSupervisor):
            return self.supervisor
        raise InvalidInput.at("model", f"{self.file.alias!r} is an embedding model")

    def embedding_supervisor(self) -> EmbeddingSupervisor:
        """Raises InvalidInput for a text model."""
        if isinstance(self.supervisor, EmbeddingSupervisor):
            return self.supervisor
        raise InvalidInput.at("model", f"{self.file.alias!r} is not an embedding model")

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Keep the engine from being unloaded as idle while the block runs."""
        self._active_requests += 1
        self._cancel_idle_timer()
        try:
            yield
        finally:
            self._active_requests -= 1
            self.restart_idle_timer()

    def restart_idle_timer(self) -> None:
        """Count idle time from now, if no request uses the engine."""
        self.last_used = time.monotonic()
        self._cancel_idle_timer()
        if self.idle and self._idle_s:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_s, self._on_idle, self)

    def _cancel_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
