"""The fair queue: which waiting request may use a provider next.

Requests are served in order of class (interactive before batch), then by start-time fair
queueing (Goyal, Vin, Cheng 1996) between owners. Each request costs its owner 1/weight of
virtual time, so an owner with weight 2 is served twice as often as one with weight 1. An owner
that was idle starts at the current virtual time and saves nothing up; a request that is
cancelled while it waits costs nothing.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from appliance.domain.completions import Urgency
from appliance.domain.moving_average import update_average
from appliance.inference.request.errors import ProviderQueueFull

_MAX_OWNERS = 1024

# Models that run at least so many requests at once keep the last slot for owners without any,
# as long as more than one owner was served in so many seconds.
_RESERVING_LIMIT = 4
_RESERVING_S = 600.0


class QueueRequest(Struct, frozen=True):
    """A request to run one completion of a model for an owner.

    `model_limit` and `provider_limit` bound how many run at once of the model and of all the
    provider's models; 0 is no limit. A request that is not `bounded` may wait although the
    queue is full: the number of such requests is limited elsewhere.
    """

    provider: str
    model: str
    owner: str
    urgency: Urgency
    model_limit: int = 0
    provider_limit: int = 0
    bounded: bool = True


class FairQueue:
    """One queue per provider, in memory.

    A batch request that has waited `ageing_s` counts as interactive. Requests of one owner are
    served in the order of arrival. At most `queue_limit` requests may wait for a provider, and
    at most `owner_limit` of one owner. `weight_of` gives an owner's weight, more than 0.
    """

    def __init__(
        self,
        *,
        queue_limit: int = 256,
        owner_limit: int = 64,
        ageing_s: float = 10.0,
        weight_of: Callable[[str], float] = lambda _: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_limit = queue_limit
        self._owner_limit = owner_limit
        self._ageing_s = ageing_s
        self._weight_of = weight_of
        self._clock = clock
        self._queues: dict[str, ProviderQueue] = {}

    @property
    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    @property
    def running(self) -> int:
        return sum(queue.running.total() for queue in self._queues.values())

    async def acquire(self, request: QueueRequest) -> "Slot":
        """Wait for a slot; the caller releases it.

        Raises ProviderQueueFull. Cancelling the call leaves the queue.
        """
        queue = self._queue(request.provider)
        if not queue.waiting and queue.has_capacity(request):
            return self._grant(queue, request)
        self._require_queue_space(queue, request)
        waiter = Waiter(request, self._clock(), asyncio.get_running_loop().create_future())
        queue.waiting.append(waiter)
        self._serve(queue)
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            self._withdraw(queue, waiter)
            raise

    def free(self, request: QueueRequest, seconds: float) -> None:
        """Free the slot of a request that ran for `seconds`; called by Slot.release only."""
        queue = self._queue(request.provider)
        queue.end(request, seconds)
        self._serve(queue)

    def _queue(self, provider: str) -> "ProviderQueue":
        queue = self._queues.get(provider)
        if queue is None:
            queue = self._queues[provider] = ProviderQueue(
                VirtualTime(self._weight_of), self._clock
            )
        return queue

    def _grant(self, queue: "ProviderQueue", request: QueueRequest) -> "Slot":
        queue.virtual_time.charge(request.owner)
        queue.begin(request)
        return Slot(self, request, self._clock)

    def _serve(self, queue: "ProviderQueue") -> None:
        """Grant a slot to every waiter that can run, in order."""
        while waiter := self._next_waiter(queue):
            queue.waiting.remove(waiter)
            waiter.slot.set_result(self._grant(queue, waiter.request))

    def _next_waiter(self, queue: "ProviderQueue") -> "Waiter | None":
        ready = [waiter for waiter in queue.waiting if queue.has_capacity(waiter.request)]
        return min(ready, key=lambda waiter: self._sort_key(queue, waiter), default=None)

    def _sort_key(self, queue: "ProviderQueue", waiter: "Waiter") -> tuple[bool, float]:
        """Equal keys keep the order of arrival: `min` takes the first."""
        return self._counts_as_batch(waiter), queue.virtual_time.start_tag(waiter.request.owner)

    def _counts_as_batch(self, waiter: "Waiter") -> bool:
        aged = self._clock() - waiter.since >= self._ageing_s
        return waiter.request.urgency is Urgency.BATCH and not aged

    def _withdraw(self, queue: "ProviderQueue", waiter: "Waiter") -> None:
        """Remove a cancelled waiter, which may have been granted its slot meanwhile."""
        if waiter.slot.done() and not waiter.slot.cancelled():
            waiter.slot.result().release()
        else:
            queue.waiting.remove(waiter)

    def _require_queue_space(self, queue: "ProviderQueue", request: QueueRequest) -> None:
        if not request.bounded:
            return
        own = sum(waiter.request.owner == request.owner for waiter in queue.waiting)
        if len(queue.waiting) >= self._queue_limit:
            name = f"the queue for {request.provider}"
            raise self._queue_full(queue, request, name, len(queue.waiting), self._queue_limit)
        if own >= self._owner_limit:
            name = f"your share of the queue for {request.provider}"
            raise self._queue_full(queue, request, name, own, self._owner_limit)

    def _queue_full(
        self, queue: "ProviderQueue", request: QueueRequest, name: str, length: int, limit: int
    ) -> ProviderQueueFull:
        position = self._position(queue, request)
        details: dict[str, int | float] = {
            "queue_length": length,
            "queue_limit": limit,
            "place": position,
        }
        expected = queue.expected_wait_s(request, position)
        if expected is not None:
            details["expected_wait_s"] = round(expected, 1)
        return ProviderQueueFull(
            f"{name} is full ({length} of {limit}); retry later",
            details=details,
            retry_after=expected,
        )

    def _position(self, queue: "ProviderQueue", request: QueueRequest) -> int:
        """The place in the queue, from 1, that this request would have by virtual time."""
        batch = request.urgency is Urgency.BATCH
        ahead, same_class = 0, Counter[str]()
        for waiter in queue.waiting:
            counts_as_batch = self._counts_as_batch(waiter)
            if batch and not counts_as_batch:
                ahead += 1
            elif batch or not counts_as_batch:
                same_class[waiter.request.owner] += 1
        own = same_class.pop(request.owner, 0)
        rounds = own + 1
        others = sum(
            min(count, math.ceil(rounds * queue.virtual_time.weight_ratio(owner, request.owner)))
            for owner, count in same_class.items()
        )
        return ahead + own + others + 1


class Slot:
    """The right to run one request."""

    def __init__(
        self, fair_queue: FairQueue, request: QueueRequest, clock: Callable[[], float]
    ) -> None:
        self._fair_queue = fair_queue
        self._request = request
        self._clock = clock
        self._since = clock()
        self._released = False

    def release(self) -> None:
        """Give the slot to the next waiter; further calls do nothing."""
        if not self._released:
            self._released = True
            self._fair_queue.free(self._request, self._clock() - self._since)


class Waiter(Struct, eq=False):
    """A request in the queue; `slot` gets its result when the request may run."""

    request: QueueRequest
    since: float
    slot: "asyncio.Future[Slot]"


class ProviderQueue:
    """One provider's waiters, the number of its running requests, and their durations."""

    def __init__(self, virtual_time: "VirtualTime", clock: Callable[[], float]) -> None:
        self.virtual_time = virtual_time
        self._clock = clock
        self._last_owner = ""
        self._last_s = self._last_of_another_s = -math.inf
        self.waiting: list[Waiter] = []
        self.running: Counter[str] = Counter()
        self._of_owner: Counter[tuple[str, str]] = Counter()
        self._average_s: dict[str, float] = {}

    def has_capacity(self, request: QueueRequest) -> bool:
        of_model, of_provider = self.running[request.model], self.running.total()
        return (not request.model_limit or of_model < self._limit_for(request)) and (
            not request.provider_limit or of_provider < request.provider_limit
        )

    def begin(self, request: QueueRequest) -> None:
        if request.owner != self._last_owner:
            self._last_of_another_s, self._last_owner = self._last_s, request.owner
        self._last_s = self._clock()
        self.running[request.model] += 1
        self._of_owner[request.model, request.owner] += 1

    def end(self, request: QueueRequest, seconds: float) -> None:
        model, own = request.model, (request.model, request.owner)
        self.running[model] -= 1
        self._of_owner[own] -= 1
        if not self.running[model]:
            del self.running[model]
        if not self._of_owner[own]:
            del self._of_owner[own]
        self._average_s[model] = update_average(self._average_s.get(model), seconds)

    def _limit_for(self, request: QueueRequest) -> int:
        """The last slot is for an owner without any: long answers of one can't hold all."""
        reserves = (
            request.model_limit >= _RESERVING_LIMIT
            and self._of_owner[request.model, request.owner] > 0
            and self._clock() - self._last_of_others(request.owner) < _RESERVING_S
        )
        return request.model_limit - 1 if reserves else request.model_limit

    def _last_of_others(self, owner: str) -> float:
        """When a request of another owner last began."""
        return self._last_of_another_s if owner == self._last_owner else self._last_s

    def expected_wait_s(self, request: QueueRequest, position: int) -> float | None:
        """Estimated wait at that position; None before the first run of the model has ended."""
        average = self._average_s.get(request.model)
        limits = (request.model_limit, request.provider_limit, position)
        concurrency = min(limit for limit in limits if limit)
        return None if average is None else position * average / concurrency


class VirtualTime:
    """Start-time fair queueing: the owner with the lowest start tag is served next."""

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        self._weight_of = weight_of
        self._now = 0.0
        self._finish_tags: dict[str, float] = {}

    def start_tag(self, owner: str) -> float:
        """Virtual time at which the owner's next request is due."""
        return max(self._now, self._finish_tags.get(owner, 0.0))

    def charge(self, owner: str) -> None:
        """Serve one request of the owner: advance the clock and the owner's finish tag."""
        self._now = self.start_tag(owner)
        self._finish_tags[owner] = self._now + 1.0 / self._weight_of(owner)
        if len(self._finish_tags) > _MAX_OWNERS:
            # A finish tag in the past has no effect on the start tag.
            self._finish_tags = {
                name: tag for name, tag in self._finish_tags.items() if tag > self._now
            }

    def weight_ratio(self, owner: str, other: str) -> float:
        """How many requests `owner` is served for each one of `other`."""
        return self._weight_of(owner) / self._weight_of(other)
