"""From a call to what begins its answer: candidate after candidate, try after try."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.errors import ApplianceError, ContextLengthExceeded, ModelUnavailable
from appliance.inference.admission.admission import Doors, Entered
from appliance.inference.attempts.attempt_log import Begun, Trace
from appliance.inference.attempts.hedging import HEDGED, Ask, Drop, Hedged, Hedging, Race
from appliance.inference.attempts.retry import Patience
from appliance.inference.request import failures
from appliance.inference.request.call import Call
from appliance.inference.request.errors import NOT_TRIED
from appliance.inference.request.route import Route

CANCELLED = "CANCELLED"
T = TypeVar("T")


@dataclass
class _Errand(Generic[T]):
    """One call on its way. `drop` is None where no second candidate may be asked beside one."""

    call: Call
    ask: Ask[T]
    drop: Drop[T] | None
    trace: Trace
    deadline: float


class Chain:
    """Tries what can be tried, in the order of the route, until one answers.

    `clock` gives seconds.
    """

    def __init__(
        self, doors: Doors, patience: Patience, hedging: Hedging, clock: Callable[[], float]
    ) -> None:
        self._doors = doors
        self._patience = patience
        self._hedging = hedging
        self._clock = clock

    async def begin(
        self, call: Call, ask: Ask[T], trace: Trace, deadline: float, drop: Drop[T] | None = None
    ) -> Begun[T]:
        """The first answer along the route. `ask` asks one candidate, once.

        With `drop`, which ends an answer that is not needed, a second candidate may be
        asked beside a slow one. Raises what the last candidate that was asked failed with.
        It is the caller who sees to the deadline: here it only keeps pauses from being
        begun in vain.
        """
        errand = _Errand(call, ask, drop, trace, deadline)
        failed: ApplianceError | None = None
        room = 0
        ahead = list(call.route.all)
        while (route := _next(ahead, failed, room)) is not None:
            ahead = ahead[ahead.index(route) + 1 :]
            try:
                return await self._persist(route, _next(ahead, failed, room), errand)
            except ApplianceError as error:
                if not failures.falls_back(error):
                    raise
                room = max(room, _room_of(route))
                failed = _weightier(failed, error)
        raise failed or ModelUnavailable("this route leads to no model")

    async def _persist(self, route: Route, then: Route | None, errand: _Errand[T]) -> Begun[T]:
        """One candidate, again after a pause where waiting can help."""
        tries = 0
        while True:
            try:
                return await self._try(route, then, errand)
            except ApplianceError as error:
                tries += 1
                left_s = errand.deadline - self._clock()
                pause = self._patience.pause(error, tries, left_s)
                if pause is None:
                    raise
            before = self._clock()
            await asyncio.sleep(pause)
            errand.trace.paused_s += self._clock() - before

    async def _try(self, route: Route, then: Route | None, errand: _Errand[T]) -> Begun[T]:
        other = self._hedging.beside(route, then)
        if errand.drop is None or other is None:
            return await self._attempt(route, errand.call, errand.ask, errand.trace)
        race = Race(errand.ask, errand.drop, self._hedging.after_s)
        try:
            return await self._raced(route, other, race, errand)
        finally:
            if race.hedged:
                errand.drop = None

    async def _raced(
        self, route: Route, other: Route, race: Race[T], errand: _Errand[T]
    ) -> Begun[T]:
        before = self._clock()
        first, second = Trace(before), Trace(before)
        try:
            return await race.run(
                lambda: self._attempt(route, errand.call, race.ask, first),
                lambda: self._attempt(other, errand.call, race.ask, second),
            )
        finally:
            errand.trace.join(first, second, self._clock() - before)

    async def _attempt(self, route: Route, call: Call, ask: Ask[T], trace: Trace) -> Begun[T]:
        entered = await self._enter(route, call, trace)
        began = self._clock()
        try:
            answer = await ask(route)
        except BaseException as error:
            entered.release()
            self._failed(route, trace, error, self._clock() - began)
            raise
        self._doors.served(route)
        trace.note(route, "", self._clock() - began)
        return Begun(route, answer, entered)

    async def _enter(self, route: Route, call: Call, trace: Trace) -> Entered:
        before = self._clock()
        try:
            return await self._doors.enter(route, call)
        except ApplianceError as error:
            trace.note(route, error.code, 0.0)
            raise
        finally:
            trace.waited_s += self._clock() - before

    def _failed(self, route: Route, trace: Trace, error: BaseException, seconds: float) -> None:
        if isinstance(error, ApplianceError):
            trace.note(route, error.code, seconds)
            self._doors.failed(route, error)
        else:
            trace.note(route, HEDGED if isinstance(error, Hedged) else CANCELLED, seconds)
            self._doors.given_up(route)


def _next(ahead: Sequence[Route], failed: ApplianceError | None, room: int) -> Route | None:
    """Whom to ask now: where the prompt was too long for so much room, one that has more."""
    outgrown = isinstance(failed, ContextLengthExceeded)
    return next((each for each in ahead if not outgrown or _room_of(each) > room), None)


def _room_of(route: Route) -> int:
    return route.info.context_tokens or 0


def _weightier(known: ApplianceError | None, new: ApplianceError) -> ApplianceError:
    """What the caller is told: what failed says more than what was not even tried."""
    return known if known is not None and isinstance(new, NOT_TRIED) else new
