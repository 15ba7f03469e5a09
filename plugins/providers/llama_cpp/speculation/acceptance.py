"""How likely it is that what was foretold comes, learned from one answer while it is written."""

from itertools import accumulate
from operator import mul

_CLASSES = 7
# Before anything was seen one half; what is seen soon outweighs it.
_FIRST_GUESS = 0.5
_WEIGHT = 2.0


class Chances:
    """Hits and misses, by how many tokens in a row had been foretold rightly before.

    A passage that was repeated for a while goes on to be repeated, and a chance likeness
    ends soon: so the length of the run says most of what there is to know. Lengths are
    classed by their powers of two; a class leans on the one below it until it has seen
    enough of its own.
    """

    def __init__(self) -> None:
        self._hits, self._seen = [0] * _CLASSES, [0] * _CLASSES
        self._known = self._estimates()

    def note(self, run: int, *, hit: bool) -> None:
        """After `run` right tokens the next foretold one came, or did not."""
        at = _class(run)
        self._seen[at] += 1
        self._hits[at] += hit
        self._known = self._estimates()

    def expected(self, run: int, most: int) -> list[float]:
        """How many of 1, 2, ... `most` foretold tokens will come on average, after such a run."""
        each = (self._known[_class(run + at)] for at in range(most))
        return list(accumulate(accumulate(each, mul)))

    def _estimates(self) -> list[float]:
        known: list[float] = []
        for hits, seen in zip(self._hits, self._seen, strict=True):
            below = known[-1] if known else _FIRST_GUESS
            known.append((hits + _WEIGHT * below) / (seen + _WEIGHT))
        return known


def _class(run: int) -> int:
    return min(run.bit_length(), _CLASSES - 1)
