"""Properties of the fair queue that hold for any requests, weights, limits and order of events."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from appliance.domain.tasks import Priority
from appliance.errors import QueueFull
from appliance.spi.fair_queue import Caps, Entry, FairQueue, QueueRequest

_AGEING_S = 10.0
_PRIORITIES = list(Priority)
# Derandomized: a failure shows the same example again, on every machine.
_settings = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@_settings
@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    pools=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    places=st.integers(1, 4),
    ends=st.lists(st.integers(0, 3), min_size=1, max_size=50),
    head_start=st.integers(0, 100),
)
def test_share_when_all_users_are_backlogged_then_within_5_percent_of_the_weights(
    weights: list[int], pools: list[int], places: int, ends: list[int], head_start: int
) -> None:
    """However many pools a user waits for, and whoever was served before the others came."""
    weight_of = {f"user {number}": float(weight) for number, weight in enumerate(weights)}
    queue = FairQueue("q", Caps(places), ageing_s=_AGEING_S, weight_of=weight_of.__getitem__)
    for _ in range(head_start):
        first = queue.start(QueueRequest("user 0"))
        assert first is not None
        queue.release(first)
    unit = math.ceil(40 / min(weights))
    for number, weight in enumerate(weights):
        for at in range(pools[number] * (weight * unit + 2 * places)):
            queue.push(QueueRequest(f"user {number}", pool=f"pool {at % pools[number]}"))
    served, running = Counter[str](), list[Entry]()
    for step in range(sum(weights) * unit):
        if len(running) == places:
            queue.release(running.pop(ends[step % len(ends)] % places))
        entry = queue.pop()
        assert entry is not None
        running.append(entry)
        served[entry.request.user] += 1
    for user, weight in weight_of.items():
        expected = weight * unit
        assert abs(served[user] - expected) <= 0.05 * expected


@_settings
@given(
    priority=st.sampled_from(_PRIORITIES),
    others=st.lists(st.integers(1, 8), min_size=1, max_size=8),
    place=st.integers(1, 3),
    service_s=st.floats(0.05, 3.0),
)
def test_wait_when_others_send_interactive_requests_without_end_then_served_after_a_bounded_number(
    priority: Priority, others: list[int], place: int, service_s: float
) -> None:
    clock, weight_of = Clock(), {f"user {n}": float(weight) for n, weight in enumerate(others)}
    queue = FairQueue(
        "q",
        Caps(1),
        ageing_s=_AGEING_S,
        weight_of=lambda user: weight_of.get(user, 1.0),
        clock=clock,
    )
    for user in weight_of:
        for _ in range(2):
            queue.push(QueueRequest(user))
    mine = [queue.push(QueueRequest("me", priority)) for _ in range(place)]
    to_rise = math.ceil(_PRIORITIES.index(priority) * _AGEING_S / service_s)
    bound = place * (to_rise + sum(others) + len(others) + 1)
    for _ in range(bound):
        entry = queue.pop()
        assert entry is not None
        if entry is mine[-1]:
            return
        if entry.request.user in weight_of:
            queue.push(QueueRequest(entry.request.user))
        clock.now += service_s
        queue.release(entry)
    raise AssertionError(f"not served after {bound} services")


class Push(Struct, frozen=True):
    user: int
    priority: Priority
    pool: int
    bounded: bool


class Release(Struct, frozen=True):
    """Ends a running request, or cancels a waiting one."""

    at: int
    waiting: bool


_EVENTS = st.one_of(
    st.builds(Push, st.integers(0, 2), st.sampled_from(_PRIORITIES), st.integers(0, 1),
              st.sampled_from([True, True, True, False])),
    st.builds(Release, st.integers(0, 30), st.sampled_from([True, False, False])),
    st.sampled_from([1.0, 6.0, 11.0]),
)  # fmt: skip


class Model:
    """The queue beside a plain list of what waits and runs, which says what may be served."""

    def __init__(self, total: int, pool_limits: list[int], user_limit: int, places: int) -> None:
        self.clock = Clock()
        self.caps = Caps(total, waiting=places, waiting_per_user=max(1, places - 2))
        self.queue = FairQueue("q", self.caps, ageing_s=_AGEING_S, clock=self.clock)
        self.pool_limits, self.user_limit = pool_limits, user_limit
        self.waiting, self.running = list[Entry](), list[Entry]()
        self.served_at: dict[tuple[str, Priority, str], float] = {}

    def push(self, event: Push) -> None:
        request = QueueRequest(
            f"user {event.user}",
            event.priority,
            f"pool {event.pool}",
            self.pool_limits[event.pool],
            self.user_limit,
            bounded=event.bounded,
        )
        if (entry := self.queue.start(request)) is not None:
            assert not self.waiting
            assert self._may_run(request)
            self.running.append(entry)
            return
        own = sum(entry.request.user == request.user for entry in self.waiting)
        is_full = len(self.waiting) >= self.caps.waiting or own >= self.caps.waiting_per_user
        if event.bounded and is_full:
            with pytest.raises(QueueFull) as refused:
                self.queue.push(request)
            assert 1 <= refused.value.details["place"] <= len(self.waiting) + 1
        else:
            self.waiting.append(self.queue.push(request))

    def release(self, event: Release) -> None:
        entries = self.waiting if event.waiting else self.running
        if entries:
            entry = entries.pop(event.at % len(entries))
            self.queue.release(entry)
            self.queue.release(entry)

    def serve(self) -> None:
        while entry := self.queue.pop():
            assert entry in self.waiting
            assert self._may_run(entry.request)
            heads = [each for each in self._heads() if self._may_run(each.request)]
            assert entry in heads
            assert self._level(entry) == min(map(self._level, heads))
            self.waiting.remove(entry)
            self.running.append(entry)
            self.served_at[self._flow(entry)] = self.clock.now
        assert not any(self._may_run(entry.request) for entry in self.waiting)
        assert (self.queue.waiting, self.queue.running) == (len(self.waiting), len(self.running))

    def _may_run(self, request: QueueRequest) -> bool:
        of_pool = [each for each in self.running if each.request.pool == request.pool]
        of_user = [each for each in of_pool if each.request.user == request.user]
        return all(
            limit == 0 or count < limit
            for limit, count in (
                (self.caps.running, len(self.running)),
                (request.pool_limit, len(of_pool)),
                (request.user_limit, len(of_user)),
            )
        )

    def _heads(self) -> list[Entry]:
        """The oldest request of each flow."""
        return list({self._flow(entry): entry for entry in reversed(self.waiting)}.values())

    def _level(self, entry: Entry) -> int:
        since = max(entry.at, self.served_at.get(self._flow(entry), 0.0))
        risen = int((self.clock.now - since) / _AGEING_S)
        return max(0, _PRIORITIES.index(entry.request.priority) - risen)

    def _flow(self, entry: Entry) -> tuple[str, Priority, str]:
        return entry.request.user, entry.request.priority, entry.request.pool


@settings(_settings, max_examples=120)
@given(
    total=st.integers(0, 3),
    pool_limits=st.lists(st.integers(0, 2), min_size=2, max_size=2),
    user_limit=st.integers(0, 2),
    places=st.integers(3, 12),
    events=st.lists(_EVENTS, min_size=30, max_size=60),
)
def test_queue_when_anything_happens_then_limits_hold_and_the_first_that_may_run_does(
    total: int, pool_limits: list[int], user_limit: int, places: int, events: list[object]
) -> None:
    """Also: none is served twice or after it was cancelled, and nothing stays free in vain."""
    model = Model(total, pool_limits, user_limit, places)
    for event in events:
        if isinstance(event, Push):
            model.push(event)
        elif isinstance(event, Release):
            model.release(event)
        elif isinstance(event, float):
            model.clock.now += event
        model.serve()
