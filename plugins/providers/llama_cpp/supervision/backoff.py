"""How long to wait before an engine that ended is started again."""

import time

_LONGEST_S = 30.0


class Backoff:
    """Doubles with each end in a row, and starts over once an answer was completed."""

    def __init__(self) -> None:
        self._ends = 0
        self._not_before = 0.0

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._not_before - time.monotonic())

    def worked(self) -> None:
        """The engine completed an answer."""
        self._ends = 0

    def ended(self, *, was_ready: bool) -> None:
        """The engine ended. The first end of one that had loaded costs no waiting."""
        self._ends += 1
        free = was_ready and self._ends == 1
        delay = 0.0 if free else min(_LONGEST_S, 2.0 ** (self._ends - 1))
        self._not_before = time.monotonic() + delay
