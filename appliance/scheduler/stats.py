"""How busy the queue is, and what that means for who comes next."""

from collections import deque

from msgspec import Struct

_REMEMBERED = 32


class QueueStats(Struct, frozen=True):
    """`oldest_wait_s` is None for an empty queue.

    `expected_wait_s` is how long a task accepted now would wait, from how long the
    last tasks really took; None until one has ended since the start.
    """

    queued: int
    running: int
    workers: int
    oldest_wait_s: float | None
    expected_wait_s: float | None


class Durations:
    """How long the last tasks occupied a worker, in seconds."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._last.append(max(0.0, seconds))

    def expected_wait_s(self, queued: int, running: int, workers: int) -> float | None:
        """How long it takes until all before a new task and one worker are through."""
        ahead = queued + running - workers + 1
        if ahead <= 0:
            return 0.0
        if not self._last:
            return None
        return ahead * sum(self._last) / len(self._last) / workers

    def next_place_s(self, workers: int) -> float | None:
        """How long it takes on average until some worker is free again."""
        return sum(self._last) / len(self._last) / workers if self._last else None
