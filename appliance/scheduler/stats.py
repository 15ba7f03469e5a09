"""The load of the queue, and the wait to expect."""

from collections import deque

from msgspec import Struct

_MAX_SAMPLES = 32


class QueueStats(Struct, frozen=True):
    """`oldest_wait_s` is None for an empty queue.

    `expected_wait_s` is the wait of a task accepted now, estimated from the durations of the
    last tasks; None until a task has ended since the start.
    """

    queued: int
    running: int
    workers: int
    oldest_wait_s: float | None
    expected_wait_s: float | None


class Durations:
    """Durations of the last tasks in seconds, from claim to end."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_MAX_SAMPLES)

    def add(self, seconds: float) -> None:
        self._durations.append(max(0.0, seconds))

    def expected_wait_s(self, queued: int, running: int, workers: int) -> float | None:
        """Estimated time until a worker is free and all tasks ahead have been claimed."""
        ahead = queued + running - workers + 1
        if ahead <= 0:
            return 0.0
        if not self._durations:
            return None
        return ahead * sum(self._durations) / len(self._durations) / workers

    def next_free_worker_s(self, workers: int) -> float | None:
        """Average time until a worker becomes free."""
        return sum(self._durations) / len(self._durations) / workers if self._durations else None
