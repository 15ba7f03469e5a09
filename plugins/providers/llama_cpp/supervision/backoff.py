"""The delay before an engine that ended is started again."""

import time

_MAX_BACKOFF_S = 30.0


class Backoff:
    """Doubles with each end in a row; a served request resets it."""

    def __init__(self) -> None:
        self._ends = 0
        self._not_before = 0.0

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._not_before - time.monotonic())

    def reset(self) -> None:
        """The engine served a request."""
        self._ends = 0

    def record_end(self, *, was_ready: bool) -> None:
        """The engine ended. The first end of one that had loaded causes no delay."""
        self._ends += 1
        immediate = was_ready and self._ends == 1
        delay = 0.0 if immediate else min(_MAX_BACKOFF_S, 2.0 ** (self._ends - 1))
        self._not_before = time.monotonic() + delay
