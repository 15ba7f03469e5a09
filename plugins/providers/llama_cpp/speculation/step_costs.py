"""What a step costs that has more rows than one, by measurement."""

from collections.abc import Sequence
from math import inf

from msgspec import Struct

# Rows of one sequence in a step for which the probe measures the time.
MEASURED_ROWS = (1, 4, 8, 16)


class StepCosts(Struct, frozen=True):
    """`times` are those of steps with MEASURED_ROWS rows, the time of one row being 1.

    A machine that is slow may have measured the first of them only, or none.
    """

    times: tuple[float, ...] = ()

    @classmethod
    def relative(cls, seconds: Sequence[float]) -> "StepCosts":
        """Out of seconds; what could not be computed ends them. More rows never cost less."""
        times: list[float] = []
        for taken in seconds:
            if taken == inf:
                break
            times.append(max([taken / seconds[0], *times[-1:]]))
        return cls(tuple(times))

    @property
    def useful(self) -> bool:
        """Whether there is a pair of times, without which nothing can be said of others."""
        return len(self.times) > 1

    def of(self, rows: int) -> float:
        """The time of a step: measured, or on the straight line through two measured ones."""
        known = list(zip(MEASURED_ROWS, self.times, strict=False))
        at = next((at for at, (count, _) in enumerate(known) if count >= rows), len(known) - 1)
        (low, start), (high, end) = known[max(0, at - 1)], known[max(1, at)]
        return start + (end - start) * (rows - low) / (high - low)
