"""Measured cost of a decode step by its number of rows."""

from collections.abc import Sequence
from math import inf

from msgspec import Struct

# Numbers of rows of one sequence for which the probe measures the time of a step.
MEASURED_ROWS = (1, 4, 8, 16)


class StepCosts(Struct, frozen=True):
    """`times` are those of steps with MEASURED_ROWS rows, as multiples of the time of one row.

    A slow machine may have measured only the first of them, or none.
    """

    times: tuple[float, ...] = ()

    @classmethod
    def from_seconds(cls, seconds: Sequence[float]) -> "StepCosts":
        """Stops at a step that could not be computed (infinity). More rows never cost less."""
        times: list[float] = []
        for step_seconds in seconds:
            if step_seconds == inf:
                break
            times.append(max([step_seconds / seconds[0], *times[-1:]]))
        return cls(tuple(times))

    @property
    def usable(self) -> bool:
        """Whether there are two times, the least to interpolate others from."""
        return len(self.times) > 1

    def step_time(self, rows: int) -> float:
        """The time of a step, by linear interpolation or extrapolation."""
        points = list(zip(MEASURED_ROWS, self.times, strict=False))
        last = len(points) - 1
        at = next((at for at, (count, _) in enumerate(points) if count >= rows), last)
        (low, start), (high, end) = points[max(0, at - 1)], points[max(1, at)]
        return start + (end - start) * (rows - low) / (high - low)
