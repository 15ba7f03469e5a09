"""How many requests one engine may have: running ones, and a bounded number of waiting ones."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.errors import QueueFull

_WEIGHT_OF_LAST = 0.3


class Admission:
    """Counts the open requests of one engine."""

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting
        self._open = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._typical_s: float | None = None

    @asynccontextmanager
    async def enter(self) -> AsyncGenerator[None, None]:
        """For the time of one request. Raises QueueFull when too many wait already."""
        if self._open >= self._running + self._waiting:
            raise self._full()
        self._open += 1
        self._empty.clear()
        started = time.monotonic()
        try:
            yield
            self._learn(time.monotonic() - started)
        finally:
            self._open -= 1
            if not self._open:
                self._empty.set()

    async def empty(self) -> None:
        """Return when no request is open."""
        await self._empty.wait()

    def _learn(self, seconds: float) -> None:
        known = self._typical_s
        self._typical_s = seconds if known is None else known + _WEIGHT_OF_LAST * (seconds - known)

    def _full(self) -> QueueFull:
        """One place gets free when a running request ends, on average so soon."""
        queued = self._open - self._running
        soon = self._typical_s / self._running if self._typical_s is not None else None
        return QueueFull(
            f"{queued} requests wait for this model already, and no more than {self._waiting} may",
            details={"queue_length": queued, "queue_limit": self._waiting},
            retry_after=soon,
        )
