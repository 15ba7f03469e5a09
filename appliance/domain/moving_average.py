"""Exponentially weighted moving average (EWMA) of durations."""

_WEIGHT_OF_SAMPLE = 0.3


def update_average(average: float | None, sample: float) -> float:
    """The average after one more sample. `average` is None before the first one."""
    return sample if average is None else average + _WEIGHT_OF_SAMPLE * (sample - average)
