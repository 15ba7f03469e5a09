"""Which connections are over the limits of number: per address, then in total."""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping

from appliance.server.connection import Connection, EndReason

Excess = tuple[Connection, EndReason]


def find_excess(
    by_address: Mapping[str, Collection[Connection]],
    *,
    per_address: int,
    total: int,
    is_idle: Callable[[Connection], bool],
    is_exempt: Callable[[str], bool],
) -> list[Excess]:
    """The connections to end: only idle ones, those that are idle longest first.

    Addresses that are exempt (trusted proxies) have no limit of their own, and lose connections
    to the total only after all others.
    """
    excess: list[Excess] = []
    groups = {address: _Group(each, is_idle) for address, each in by_address.items()}
    exempt = {address for address in groups if is_exempt(address)}
    for address, group in groups.items():
        if group.size > per_address and address not in exempt:
            found = group.take(group.size - per_address)
            excess += [(connection, EndReason.ADDRESS_LIMIT) for connection in found]
    for addresses in (groups.keys() - exempt, exempt):
        over = sum(group.size for group in groups.values()) - total
        found = _take_from_largest([groups[address] for address in addresses], over)
        excess += [(connection, EndReason.TOTAL_LIMIT) for connection in found]
    return excess


class _Group:
    """The connections of one address that are left."""

    def __init__(
        self, members: Collection[Connection], is_idle: Callable[[Connection], bool]
    ) -> None:
        self.size = len(members)
        self._members = members
        self._is_idle = is_idle
        self._idle: list[Connection] | None = None

    def take(self, number: int) -> Iterator[Connection]:
        """Take away up to `number` idle connections."""
        for _ in range(min(number, len(self._sorted_idle()))):
            self.size -= 1
            yield self._sorted_idle().pop()

    def oldest(self) -> float | None:
        """The time since when the next connection to take is idle; None if there is none."""
        idle = self._sorted_idle()
        return idle[-1].idle_since if idle else None

    def _sorted_idle(self) -> list[Connection]:
        """The idle ones, that which is idle longest at the end."""
        if self._idle is None:  # not at once: most addresses lose nothing
            idle = filter(self._is_idle, self._members)
            self._idle = sorted(idle, key=lambda each: each.idle_since)
            self._idle.reverse()  # of those seen at the same time, the first ones go first
        return self._idle


def _take_from_largest(groups: list[_Group], number: int) -> Iterator[Connection]:
    """Up to `number` idle connections, each from the group that is then the largest."""
    if number <= 0:
        return
    largest = [
        (-group.size, oldest, index)
        for index, group in enumerate(groups)
        if (oldest := group.oldest()) is not None
    ]
    heapq.heapify(largest)
    while number > 0 and largest:
        _, _, index = heapq.heappop(largest)
        number -= 1
        yield from groups[index].take(1)
        oldest = groups[index].oldest()
        if oldest is not None:
            heapq.heappush(largest, (-groups[index].size, oldest, index))
