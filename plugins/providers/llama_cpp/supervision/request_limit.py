"""Limits the requests of one engine: those that run, and a bounded number that wait."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.domain.moving_average import update_average
from appliance.errors import QueueFull


class RequestLimit:
    """Counts the open requests of one engine. An owner has at most `per_owner` of them."""

    def __init__(self, running: int, waiting: int, *, per_owner: int | None = None) -> None:
        self._max_running, self._max_waiting = running, waiting
        self._per_owner = per_owner
        self._open = 0
        self._open_by_owner: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._average_s: float | None = None

    @asynccontextmanager
    async def admit(self, owner: str = "") -> AsyncGenerator[None, None]:
        """Count one request while the block runs. Raises QueueFull if too many are open."""
        if self._open >= self._max_running + self._max_waiting:
            raise self._queue_full()
        if self._per_owner is not None and self._open_by_owner[owner] >= self._per_owner:
            raise QueueFull(
                f"your share of the queue for this model is full ({self._per_owner} requests); "
                "retry later",
                details={"queue_length": self._per_owner, "queue_limit": self._per_owner},
            )
        self._open += 1
        self._open_by_owner[owner] += 1
        self._idle.clear()
        started = time.monotonic()
        try:
            yield
            self._average_s = update_average(self._average_s, time.monotonic() - started)
        finally:
            self._open -= 1
            self._open_by_owner[owner] -= 1
            if not self._open_by_owner[owner]:
                del self._open_by_owner[owner]
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
