"""Flows of waiting requests, and heaps of flows."""

import math
from collections import OrderedDict
from heapq import heapify, heappop, heappush, heapreplace

from appliance.spi.fair_queue.requests import Entry
from appliance.spi.fair_queue.virtual_clock import VirtualClock

_MIN_COMPACTED = 64


class Flow:
    """The waiting requests of one user in one class and pool.

    `level` is the class as raised by ageing. `version` changes with everything that the order
    depends on: an item of a heap with another version is out of date.
    """

    __slots__ = ("entries", "level", "pool", "rank", "served_at", "tag", "user", "user_limit",
                 "version")  # fmt: skip

    def __init__(self, pool: str, user: str, rank: int) -> None:
        self.pool = pool
        self.user = user
        self.rank = self.level = rank
        self.user_limit = 0
        self.entries: OrderedDict[int, Entry] = OrderedDict()
        self.served_at = -math.inf
        self.tag = 0.0
        self.version = 0

    @property
    def head(self) -> Entry:
        return next(iter(self.entries.values()))

    def pop_head(self, now: float) -> Entry:
        self.served_at = now
        return self.entries.popitem(last=False)[1]


def service_order(flow: Flow) -> tuple[int, float, int]:
    return flow.level, flow.tag, flow.head.number


class FlowHeap:
    """Flows by a number, then by arrival; outdated items are skipped, and removed in time."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, int, Flow]] = []

    def push(self, key: float, number: int, flow: Flow, flows: int) -> None:
        """`flows` is how many there are at most; beyond twice as many, items are outdated."""
        if len(self._items) > max(_MIN_COMPACTED, 2 * flows):
            self._items = [item for item in self._items if item[2] == item[3].version]
            heapify(self._items)
        heappush(self._items, (key, number, flow.version, flow))

    def first(self) -> tuple[float, Flow] | None:
        while self._items:
            key, _, version, flow = self._items[0]
            if version == flow.version:
                return key, flow
            heappop(self._items)
        return None

    def first_by_tag(self, clock: VirtualClock) -> Flow | None:
        """The first one, after its user's services by way of other flows were charged to it."""
        while found := self.first():
            tag, flow = found
            finish = clock.finish_tag(flow.user)
            if finish <= tag:
                return flow
            flow.tag = finish
            heapreplace(self._items, (finish, self._items[0][1], flow.version, flow))
        return None
