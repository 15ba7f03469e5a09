"""So much per minute: a bucket that fills at that rate and holds a minute's worth."""

from collections.abc import Callable

_MINUTE_S = 60.0


class Bucket:
    """`take` may overdraw it, by what turned out to be more than was asked for."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = float(per_minute)
        self._clock = clock
        self._left = self._per_minute
        self._at = clock()

    def wait_s(self, amount: float) -> float:
        """Seconds until so much can be taken; more than a minute's worth counts as that."""
        self._fill()
        lacking = min(amount, self._per_minute) - self._left
        return max(0.0, lacking * _MINUTE_S / self._per_minute)

    def take(self, amount: float) -> None:
        """Take so much, or give back what is negative."""
        self._fill()
        self._left = min(self._per_minute, self._left - amount)

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._at) * self._per_minute / _MINUTE_S
        self._left, self._at = min(self._per_minute, self._left + gained), now
