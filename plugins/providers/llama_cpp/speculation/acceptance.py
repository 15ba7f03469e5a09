"""Acceptance rate of draft tokens, learned from one answer while it is generated."""

from itertools import accumulate
from operator import mul

_CLASSES = 7
# The prior is one half; a few observations outweigh it.
_PRIOR = 0.5
_PRIOR_WEIGHT = 2.0


class AcceptanceRates:
    """Hits and misses by the number of tokens in a row that were predicted correctly before.

    A passage that has been repeated for a while usually continues to be, and a chance match ends
    soon, so the length of the run says most. Lengths are classed by powers of two; a class takes
    the rate of the class below as its prior.
    """

    def __init__(self) -> None:
        self._hits, self._trials = [0] * _CLASSES, [0] * _CLASSES
        self._rates = self._estimate_rates()

    def record(self, run: int, *, hit: bool) -> None:
        """Whether the next token was predicted correctly after `run` correct ones."""
        at = _class_of(run)
        self._trials[at] += 1
        self._hits[at] += hit
        self._rates = self._estimate_rates()

    def expect_accepted(self, run: int, limit: int) -> list[float]:
        """Expected number of accepted tokens of drafts of 1, 2, ... `limit`, after such a run."""
        rates = (self._rates[_class_of(run + at)] for at in range(limit))
        return list(accumulate(accumulate(rates, mul)))

    def _estimate_rates(self) -> list[float]:
        rates: list[float] = []
        for hits, trials in zip(self._hits, self._trials, strict=True):
            prior = rates[-1] if rates else _PRIOR
            rates.append((hits + _PRIOR_WEIGHT * prior) / (trials + _PRIOR_WEIGHT))
        return rates


def _class_of(run: int) -> int:
    return min(run.bit_length(), _CLASSES - 1)
