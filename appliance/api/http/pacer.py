"""Spreads events over time that hostile clients could cause as fast as the server allows."""

import asyncio
import time
from collections.abc import Callable

_SHORTEST_WAIT_S = 0.0005  # the event loop's timers are no finer
_MAX_WAITING = 4096  # each holds a task, and a connection until the client closes it


class Pacer:
    """Lets `per_s` events happen in a second, and `burst` more at once; others wait their turn.

    At most `max_waiting` wait at once.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        max_waiting: int = _MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1 / per_s
        self._burst_s = burst * self._interval_s
        self._max_waiting = max_waiting
        self._clock = clock
        self._next_at = float("-inf")
        self._waiting = 0

    async def wait(self) -> None:
        """Until it is the caller's turn; no longer if very many wait already."""
        if self._waiting >= self._max_waiting:
            return
        now = self._clock()
        self._next_at = max(self._next_at, now - self._burst_s) + self._interval_s
        if self._next_at - now < _SHORTEST_WAIT_S:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(self._next_at - now)
        finally:
            self._waiting -= 1
