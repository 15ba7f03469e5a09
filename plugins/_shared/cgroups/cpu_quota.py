"""Processor quota of a control group (CFS bandwidth control, both versions)."""

PERIOD_US = 100_000
"""The kernel's default for a new control group, in microseconds."""
_MIN_QUOTA_US = 1000


def cpu_quota_us(cpus: float) -> int:
    """Microseconds of processor time in each PERIOD_US."""
    return max(_MIN_QUOTA_US, int(cpus * PERIOD_US))
