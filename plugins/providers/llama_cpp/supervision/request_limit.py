"""Limits the requests of one engine: those that run, and a bounded number that wait."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.domain.moving_average import update_average
from appliance.errors import QueueFull


class RequestLimit:
    """Counts the open requests of one engine."""

    def __init__(self, running: int, waiting: int) -> None:
        self._max_running, self._max_waiting = running, waiting
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._average_s: float | None = None

    @asynccontextmanager
    async def admit(self) -> AsyncGenerator[None, None]:
        """Count one request while the block runs. Raises QueueFull if too many are open."""
        if self._open >= self._max_running + self._max_waiting:
            raise self._queue_full()
        self._open += 1
        self._idle.clear()
        started = time.monotonic()
        try:
            yield
            self._average_s = update_average(self._average_s, time.monotonic() - started)
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when no request is open."""
        await self._idle.wait()

    def _queue_full(self) -> QueueFull:
        """`retry_after`: the average time until one of the running requests ends."""
        waiting = self._open - self._max_running
        return QueueFull(
            f"queue for this model is full ({waiting} of {self._max_waiting}); retry later",
            details={"queue_length": waiting, "queue_limit": self._max_waiting},
            retry_after=None if self._average_s is None else self._average_s / self._max_running,
        )
