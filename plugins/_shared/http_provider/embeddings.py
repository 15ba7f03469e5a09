"""Vectors as providers give them, brought to length 1."""

import math
from collections.abc import Iterator, Sequence

from plugins._shared.http_provider import failures


def of_length_one(name: str, vector: Sequence[float]) -> tuple[float, ...]:
    """Raises ProviderFailed for a vector that has no direction."""
    length = math.hypot(*vector)
    if not math.isfinite(length) or length == 0:
        raise failures.failed(name, "it made a vector without a direction")
    return tuple(value / length for value in vector)


def check_count(name: str, found: int, wanted: int) -> None:
    """Raises ProviderFailed unless there is a vector for each text."""
    if found != wanted:
        raise failures.failed(name, f"it made {found} vectors for {wanted} texts")


def batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The texts in portions that one request may hold."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
