"""Helpers for embeddings: batches of texts, checked counts, vectors of length 1."""

import math
from collections.abc import Iterator, Sequence

from plugins._shared.http_provider import failures


def normalize(name: str, vector: Sequence[float]) -> tuple[float, ...]:
    """Scale a vector to length 1. Raises ProviderFailed if it is zero or not finite."""
    length = math.hypot(*vector)
    if not math.isfinite(length) or length == 0:
        raise failures.provider_failed(name, "it returned a vector that is zero or not finite")
    return tuple(value / length for value in vector)


def check_count(name: str, received: int, expected: int) -> None:
    """Raise ProviderFailed unless there is one vector per text."""
    if received != expected:
        raise failures.provider_failed(name, f"it returned {received} vectors for {expected} texts")


def iter_batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The texts in batches of at most `size`."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
