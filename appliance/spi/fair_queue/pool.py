"""The flows of one pool, and which of them is served next."""

from appliance.spi.fair_queue.flow import Flow, FlowHeap, service_order
from appliance.spi.fair_queue.requests import RANKS, Entry
from appliance.spi.fair_queue.virtual_clock import VirtualClock

_LEVELS = range(len(RANKS))


class Pool:
    """The flows of a pool, by class, and the number of its running requests by user.

    Flows of users with a running request are apart from the others, and those of users at
    their limit are in no heap.
    """

    def __init__(self, name: str, clocks: tuple[VirtualClock, ...], ageing_s: float) -> None:
        self._name = name
        self.limit = 0
        self.running = 0
        self.flows: dict[tuple[str, int], Flow] = {}
        self._clocks = clocks
        self._ageing_s = ageing_s
        self._running_by_user: dict[str, int] = {}
        self._idle = tuple(FlowHeap() for _ in _LEVELS)
        self._busy = tuple(FlowHeap() for _ in _LEVELS)
        self._ageing = FlowHeap()

    def has_capacity(self, user: str, user_limit: int, reserves: bool) -> bool:
        if 0 < self.limit <= self.running:
            return False
        own = self._running_by_user.get(user, 0)
        return not (reserves and own) and not 0 < user_limit <= own

    def begin(self, entry: Entry) -> None:
        user = entry.request.user
        self.running += 1
        self._running_by_user[user] = self._running_by_user.get(user, 0) + 1

    def end(self, entry: Entry, now: float) -> None:
        user = entry.request.user
        own = self._running_by_user[user] - 1
        self.running -= 1
        if own:
            self._running_by_user[user] = own
        else:
            del self._running_by_user[user]
        if self.flows:
            self.reschedule_user(user, now)

    def add(self, entry: Entry, now: float) -> None:
        request, rank = entry.request, RANKS[entry.request.priority]
        key = (request.user, rank)
        flow = self.flows.get(key)
        if flow is None:
            flow = self.flows[key] = Flow(self._name, request.user, rank)
        is_first = not flow.entries
        flow.entries[entry.number] = entry
        if is_first or flow.user_limit != request.user_limit:
            flow.user_limit = request.user_limit
            self._schedule(flow, now, keep_tag=not is_first)

    def remove(self, entry: Entry, now: float) -> None:
        flow = self.flows[entry.request.user, RANKS[entry.request.priority]]
        was_head = flow.head is entry
        del flow.entries[entry.number]
        if was_head:
            self._schedule(flow, now, keep_tag=True)

    def select(self, now: float, reserves: bool) -> Flow | None:
        """The flow to serve; with `reserves`, of a user without a running request."""
        if 0 < self.limit <= self.running:
            return None
        self._apply_ageing(now)
        for level, clock in enumerate(self._clocks):
            idle = self._idle[level].first_by_tag(clock)
            busy = None if reserves else self._busy[level].first_by_tag(clock)
            if idle is not None or busy is not None:
                return min(filter(None, (idle, busy)), key=service_order)
        return None

    def reschedule_user(self, user: str, now: float, served: Flow | None = None) -> None:
        """After the number of the user's running requests has changed."""
        for rank in _LEVELS:
            flow = self.flows.get((user, rank))
            if flow is not None:
                self._schedule(flow, now, keep_tag=flow is not served)

    def levels(self, now: float) -> list[tuple[Flow, int]]:
        return [(flow, self._level(flow, now)[0]) for flow in self.flows.values()]

    def _apply_ageing(self, now: float) -> None:
        while (first := self._ageing.first()) and first[0] <= now:
            self._schedule(first[1], now, keep_tag=True)

    def _schedule(self, flow: Flow, now: float, *, keep_tag: bool) -> None:
        """Put the flow where it belongs. `keep_tag`: unless its class has changed."""
        flow.version += 1
        if not flow.entries:
            del self.flows[flow.user, flow.rank]
            return
        own = self._running_by_user.get(flow.user, 0)
        if 0 < flow.user_limit <= own:
            flow.level = -1  # gets a new tag when it may be served again
            return
        level, rises_at = self._level(flow, now)
        if level != flow.level or not keep_tag:
            flow.level, flow.tag = level, self._clocks[level].start_tag(flow.user)
        number, count = flow.head.number, len(self.flows)
        (self._busy if own else self._idle)[level].push(flow.tag, number, flow, count)
        if level:
            self._ageing.push(rises_at, number, flow, count)

    def _level(self, flow: Flow, now: float) -> tuple[int, float]:
        """The class of the flow, and when it will rise by one."""
        rises_at = max(flow.head.at, flow.served_at) + self._ageing_s
        level = flow.rank
        while level and rises_at <= now:
            level, rises_at = level - 1, rises_at + self._ageing_s
        return level, rises_at
