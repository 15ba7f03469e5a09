"""The fair-share gate: who may use a provider now, and who waits for it."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from appliance.domain.completions import Urgency
from appliance.inference.admission.turns import Turns
from appliance.inference.request.errors import GateFull

_WEIGHT_OF_LAST = 0.3


class Wish(Struct, frozen=True):
    """To run one completion of this model for this owner.

    At most `of_model` run of the model at once, and `of_provider` of all its provider's
    models; 0 is no limit. What is not `bounded` waits however many do: its number is
    limited elsewhere.
    """

    provider: str
    model: str
    owner: str
    urgency: Urgency
    of_model: int = 0
    of_provider: int = 0
    bounded: bool = True


class Gate:
    """In memory; every provider has a queue of its own.

    Interactive requests go before batch ones; a batch request that has waited `ageing_s`
    counts as interactive. Among these, owners take turns by weight, each in the order of
    its requests. A request waits only if it must, and no more than `queue_limit` of a
    provider, `owner_limit` of an owner, may wait.
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
        self._queues: dict[str, _Queue] = {}

    @property
    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    @property
    def running(self) -> int:
        return sum(queue.running.total() for queue in self._queues.values())

    async def enter(self, wish: Wish) -> "Ticket":
        """Wait for the right to run; give it back with `release`.

        Raises GateFull if too many wait already. Cancelling it gives the place up.
        """
        queue = self._queue(wish.provider)
        if not queue.waiting and queue.has_room(wish):
            return self._granted(queue, wish)
        self._require_place(queue, wish)
        place = _Place(wish, self._clock(), asyncio.get_running_loop().create_future())
        queue.waiting.append(place)
        self._serve(queue)
        try:
            return await place.ticket
        except asyncio.CancelledError:
            self._leave(queue, place)
            raise

    def left(self, ticket: "Ticket", seconds: float) -> None:
        """A running request has ended; for Ticket only."""
        queue = self._queue(ticket.wish.provider)
        queue.running[ticket.wish.model] -= 1
        queue.learn(ticket.wish.model, seconds)
        self._serve(queue)

    def _queue(self, provider: str) -> "_Queue":
        queue = self._queues.get(provider)
        if queue is None:
            queue = self._queues[provider] = _Queue(Turns(self._weight_of))
        return queue

    def _granted(self, queue: "_Queue", wish: Wish) -> "Ticket":
        queue.turns.take(wish.owner)
        queue.running[wish.model] += 1
        return Ticket(self, wish, self._clock)

    def _serve(self, queue: "_Queue") -> None:
        """Let in whoever can go, in order."""
        while place := self._next(queue):
            queue.waiting.remove(place)
            place.ticket.set_result(self._granted(queue, place.wish))

    def _next(self, queue: "_Queue") -> "_Place | None":
        ready = [place for place in queue.waiting if queue.has_room(place.wish)]
        return min(ready, key=lambda place: self._order(queue, place), default=None)

    def _order(self, queue: "_Queue", place: "_Place") -> tuple[bool, float]:
        """Equal orders keep that of their coming: `min` takes the first."""
        return self._stands_back(place), queue.turns.due(place.wish.owner)

    def _stands_back(self, place: "_Place") -> bool:
        aged = self._clock() - place.since >= self._ageing_s
        return place.wish.urgency is Urgency.BATCH and not aged

    def _leave(self, queue: "_Queue", place: "_Place") -> None:
        """The one who waited has gone, perhaps in the moment of being let in."""
        if place.ticket.done() and not place.ticket.cancelled():
            place.ticket.result().release()
        else:
            queue.waiting.remove(place)

    def _require_place(self, queue: "_Queue", wish: Wish) -> None:
        if not wish.bounded:
            return
        own = sum(place.wish.owner == wish.owner for place in queue.waiting)
        if len(queue.waiting) >= self._queue_limit:
            raise self._full(queue, wish, len(queue.waiting), self._queue_limit, "")
        if own >= self._owner_limit:
            raise self._full(queue, wish, own, self._owner_limit, " of yours")

    def _full(self, queue: "_Queue", wish: Wish, length: int, limit: int, whose: str) -> GateFull:
        place = self._place(queue, wish)
        details: dict[str, int | float] = {
            "queue_length": length,
            "queue_limit": limit,
            "place": place,
        }
        expected = queue.expected_s(wish, place)
        if expected is not None:
            details["expected_wait_s"] = round(expected, 1)
        return GateFull(
            f"{length} requests{whose} wait for {wish.provider} already, and no more than "
            f"{limit} may; come back later",
            details=details,
            retry_after=expected,
        )

    def _place(self, queue: "_Queue", wish: Wish) -> int:
        """Which one in the line this request would be, as owners take turns."""
        batch = wish.urgency is Urgency.BATCH
        before, beside = 0, Counter[str]()
        for place in queue.waiting:
            stands_back = self._stands_back(place)
            if batch and not stands_back:
                before += 1
            elif batch or not stands_back:
                beside[place.wish.owner] += 1
        own = beside.pop(wish.owner, 0)
        turns = own + 1
        others = sum(
            min(count, math.ceil(turns * queue.turns.share(owner, wish.owner)))
            for owner, count in beside.items()
        )
        return before + own + others + 1


class Ticket:
    """The right to run; `release` gives it back, once."""

    def __init__(self, gate: Gate, wish: Wish, clock: Callable[[], float]) -> None:
        self.wish = wish
        self._gate = gate
        self._clock = clock
        self._since = clock()
        self._released = False

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._gate.left(self, self._clock() - self._since)


class _Place(Struct, eq=False):
    wish: Wish
    since: float
    ticket: "asyncio.Future[Ticket]"


class _Queue:
    """One provider's: who runs, who waits, and how long a run takes."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.waiting: list[_Place] = []
        self.running: Counter[str] = Counter()
        self._typical_s: dict[str, float] = {}

    def has_room(self, wish: Wish) -> bool:
        of_model, of_provider = self.running[wish.model], self.running.total()
        return (not wish.of_model or of_model < wish.of_model) and (
            not wish.of_provider or of_provider < wish.of_provider
        )

    def learn(self, model: str, seconds: float) -> None:
        if not self.running[model]:
            del self.running[model]
        known = self._typical_s.get(model, seconds)
        self._typical_s[model] = known + _WEIGHT_OF_LAST * (seconds - known)

    def expected_s(self, wish: Wish, place: int) -> float | None:
        """The wait at that place, from how long runs took; None before the first has ended."""
        typical = self._typical_s.get(wish.model)
        at_once = min(limit for limit in (wish.of_model, wish.of_provider, place) if limit)
        return None if typical is None else place * typical / at_once
