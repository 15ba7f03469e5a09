"""FairQueue: the order of service and the limits, over all pools."""

import math
import time
from collections import Counter
from collections.abc import Callable

from appliance.errors import QueueFull
from appliance.spi.fair_queue.flow import service_order
from appliance.spi.fair_queue.pool import Pool
from appliance.spi.fair_queue.requests import RANKS, Caps, Entry, EntryState, QueueRequest
from appliance.spi.fair_queue.virtual_clock import VirtualClock

_MAX_IDLE_POOLS = 256


class FairQueue:
    """The order of requests and the limits of those that run; see the module.

    `name` ("the queue for openai") is used in refusals. `weight_of` gives the weight of a user,
    more than 0; `clock` gives seconds.
    """

    def __init__(
        self,
        name: str,
        caps: Caps,
        *,
        ageing_s: float,
        weight_of: Callable[[str], float] = lambda _: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._caps = caps
        self._ageing_s = ageing_s
        self._weight_of = weight_of
        self._clock = clock
        self._clocks = tuple(VirtualClock() for _ in RANKS)
        self._pools: dict[str, Pool] = {}
        self._backlogged: dict[str, Pool] = {}
        self._waiting_by_user: Counter[str] = Counter()
        self._number = 0
        self._last_user: str = ""
        self._last_at = self._last_of_another_at = -math.inf
        self.waiting = 0
        self.running = 0

    def start(self, request: QueueRequest) -> Entry | None:
        """Run the request without waiting; None if others wait or a limit is reached."""
        if self.waiting or self._is_full():
            return None
        pool = self._pool(request)
        now = self._clock()
        if not pool.has_capacity(request.user, request.user_limit, self._reserves(pool, now)):
            return None
        clock = self._clocks[RANKS[request.priority]]
        clock.serve(request.user, clock.start_tag(request.user), self._weight_of)
        self._number += 1
        entry = Entry(request, self._number, now)
        self._run(entry, pool, now)
        return entry

    def push(self, request: QueueRequest) -> Entry:
        """Let the request wait. Raises QueueFull with {queue_length, queue_limit, place}."""
        self._require_space(request)
        pool, now = self._pool(request), self._clock()
        self._number += 1
        entry = Entry(request, self._number, now)
        self.waiting += 1
        self._waiting_by_user[request.user] += 1
        self._backlogged[request.pool] = pool
        pool.add(entry, now)
        return entry

    def pop(self) -> Entry | None:
        """Run the next request; None if none may run now."""
        if self._is_full():
            return None
        now = self._clock()
        heads = (pool.select(now, self._reserves(pool, now)) for pool in self._backlogged.values())
        flow = min(filter(None, heads), key=service_order, default=None)
        if flow is None:
            return None
        pool, user = self._pools[flow.pool], flow.user
        self._clocks[flow.level].serve(user, flow.tag, self._weight_of)
        entry = flow.pop_head(now)
        self._run(entry, pool, now)
        pool.reschedule_user(user, now, served=flow)
        self._forget_waiting(entry)
        return entry

    def release(self, entry: Entry) -> None:
        """End a running request, or remove a waiting one; further calls do nothing."""
        state, entry.state = entry.state, EntryState.ENDED
        if state is EntryState.RUNNING:
            self.running -= 1
            self._pools[entry.request.pool].end(entry, self._clock())
        elif state is EntryState.WAITING:
            self._pools[entry.request.pool].remove(entry, self._clock())
            self._forget_waiting(entry)

    def place(self, request: QueueRequest) -> int:
        """The place in the queue, from 1, that this request would have.

        Counts what is to be served before it if nothing else comes, in its pool, or in all
        pools if there is a limit for all.
        """
        rank, now, ahead = RANKS[request.priority], self._clock(), 0
        pools = self._backlogged
        if not self._caps.running:
            pools = {name: pool for name, pool in pools.items() if name == request.pool}
        same_class = Counter[str]()
        for flow, level in (each for pool in pools.values() for each in pool.levels(now)):
            # Of a flow that has risen, only the oldest request has.
            count = len(flow.entries) if flow.rank == level else 1
            if level < rank:
                ahead += count
            elif level == rank:
                same_class[flow.user] += count
        own = same_class.pop(request.user, 0)
        weight = self._weight_of(request.user)
        others = sum(
            min(count, math.ceil((own + 1) * self._weight_of(user) / weight))
            for user, count in same_class.items()
        )
        return ahead + own + others + 1

    def _is_full(self) -> bool:
        return 0 < self._caps.running <= self.running

    def _reserves(self, pool: "Pool", now: float) -> bool:
        """Whether the pool's next place is its last one, kept for users without any."""
        return (
            0 < self._caps.reserve_from <= pool.limit
            and pool.running == pool.limit - 1
            and now - self._last_of_another_at < self._caps.reserve_s
        )

    def _run(self, entry: Entry, pool: "Pool", now: float) -> None:
        entry.state = EntryState.RUNNING
        self.running += 1
        pool.begin(entry)
        user = entry.request.user
        if user != self._last_user:
            self._last_of_another_at, self._last_user = self._last_at, user
        self._last_at = now

    def _forget_waiting(self, entry: Entry) -> None:
        name, user = entry.request.pool, entry.request.user
        self.waiting -= 1
        self._waiting_by_user[user] -= 1
        if not self._waiting_by_user[user]:
            del self._waiting_by_user[user]
        if not self._backlogged[name].flows:
            del self._backlogged[name]

    def _pool(self, request: QueueRequest) -> "Pool":
        pool = self._pools.get(request.pool)
        if pool is None:
            if len(self._pools) >= _MAX_IDLE_POOLS:
                self._pools = {
                    name: each for name, each in self._pools.items() if each.running or each.flows
                }
            pool = self._pools[request.pool] = Pool(request.pool, self._clocks, self._ageing_s)
        pool.limit = request.pool_limit
        return pool

    def _require_space(self, request: QueueRequest) -> None:
        if not request.bounded:
            return
        own, limit = self._waiting_by_user[request.user], self._caps.waiting
        own_limit = self._caps.waiting_per_user
        if 0 < limit <= self.waiting:
            raise self._refusal(request, self._name, self.waiting, limit)
        if 0 < own_limit <= own:
            raise self._refusal(request, f"your share of {self._name}", own, own_limit)

    def _refusal(self, request: QueueRequest, name: str, length: int, limit: int) -> QueueFull:
        return QueueFull(
            f"{name} is full ({length} of {limit}); retry later",
            details={"queue_length": length, "queue_limit": limit, "place": self.place(request)},
        )
