"""From a call to what begins its answer: candidate after candidate, try after try."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance import telemetry
from appliance.domain.completions import Attempt
from appliance.errors import ApplianceError, ContextLengthExceeded, ModelUnavailable
from appliance.inference import outcomes
from appliance.inference.call import Call
from appliance.inference.doors import Doors, Entered
from appliance.inference.patience import Patience
from appliance.inference.refusals import NOT_TRIED
from appliance.inference.routes import Route

CANCELLED = "CANCELLED"
T = TypeVar("T")
Ask = Callable[[Route], Awaitable[T]]


class Trace:
    """What happened to one call so far. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.attempts: list[Attempt] = []
        self.waited_s = 0.0
        self.paused_s = 0.0
        self.overhead_s = 0.0

    def note(self, route: Route, error: str, seconds: float) -> None:
        """Add an attempt; `error` is "" if it serves."""
        self.attempts.append(Attempt(route.provider, route.model, error, round(seconds, 6)))
        telemetry.observe_attempt(route.provider, error)

    def began_to_answer(self, now: float) -> None:
        """All the time until here that nobody else took was the box's own."""
        asked = sum(attempt.seconds for attempt in self.attempts)
        self.overhead_s = max(0.0, now - self.began - self.waited_s - self.paused_s - asked)


@dataclass(frozen=True)
class Begun(Generic[T]):
    """What the first candidate that served gave; `entered` is to be released."""

    route: Route
    answer: T
    entered: Entered


class Chain:
    """Tries what can be tried, in the order of the route, until one answers.

    `clock` gives seconds.
    """

    def __init__(self, doors: Doors, patience: Patience, clock: Callable[[], float]) -> None:
        self._doors = doors
        self._patience = patience
        self._clock = clock

    async def begin(self, call: Call, ask: Ask[T], trace: Trace, deadline: float) -> Begun[T]:
        """The first answer along the route. `ask` asks one candidate, once.

        Raises what the last candidate that was asked failed with. It is the caller who
        sees to the deadline: here it only keeps pauses from being begun in vain.
        """
        failed: ApplianceError | None = None
        room = 0
        for route in call.route.all:
            if isinstance(failed, ContextLengthExceeded) and _room_of(route) <= room:
                continue
            try:
                return await self._persist(route, call, ask, trace, deadline)
            except ApplianceError as error:
                if not outcomes.falls_back(error):
                    raise
                room = max(room, _room_of(route))
                failed = _weightier(failed, error)
        raise failed or ModelUnavailable("this route leads to no model")

    async def _persist(
        self, route: Route, call: Call, ask: Ask[T], trace: Trace, deadline: float
    ) -> Begun[T]:
        """One candidate, again after a pause where waiting can help."""
        tries = 0
        while True:
            try:
                return await self._attempt(route, call, ask, trace)
            except ApplianceError as error:
                tries += 1
                pause = self._patience.pause(error, tries, deadline - self._clock())
                if pause is None:
                    raise
            before = self._clock()
            await asyncio.sleep(pause)
            trace.paused_s += self._clock() - before

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
            trace.note(route, CANCELLED, seconds)
            self._doors.given_up(route)


def _room_of(route: Route) -> int:
    return route.info.context_tokens or 0


def _weightier(known: ApplianceError | None, new: ApplianceError) -> ApplianceError:
    """What the caller is told: what failed says more than what was not even tried."""
    return known if known is not None and isinstance(new, NOT_TRIED) else new
