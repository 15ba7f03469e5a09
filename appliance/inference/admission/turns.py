"""Whose turn it is: start-time fair queueing (Goyal, Vin, Cheng 1996) with turns as cost.

An owner with weight 2 gets two turns where one with weight 1 gets one. Who was away does
not save turns up, and who waits in vain and leaves has lost none.
"""

from collections.abc import Callable

_KEPT = 1024


class Turns:
    """Virtual time: `weight_of` gives an owner's share, more than 0."""

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._now = 0.0
        self._next: dict[str, float] = {}

    def due(self, owner: str) -> float:
        """When it is this owner's turn; the lowest goes first."""
        return max(self._now, self._next.get(owner, 0.0))

    def take(self, owner: str) -> None:
        """The owner has its turn now."""
        self._now = self.due(owner)
        self._next[owner] = self._now + 1.0 / self._weight_of(owner)
        if len(self._next) > _KEPT:
            # Who is not ahead of the time is due now, remembered or not.
            self._next = {name: at for name, at in self._next.items() if at > self._now}

    def share(self, owner: str, than: str) -> float:
        """How many turns `owner` gets for each one of `than`."""
        return self._weight_of(owner) / self._weight_of(than)
