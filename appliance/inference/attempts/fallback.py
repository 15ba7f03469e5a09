"""The fallback chain: tries the targets of a route until one begins to answer.

Each target is tried again after a pause as often as the retry policy allows. The next target
follows if the error permits it; a prompt that was too long is only tried with targets that
have a larger context. A slow first event may start a race with the next target (hedging.py),
once per call.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.errors import ApplianceError, ContextLengthExceeded, ModelUnavailable
from appliance.inference.admission.admission import AdmissionControl, Permit
from appliance.inference.attempts.attempt_log import AttemptLog, Started
from appliance.inference.attempts.hedging import (
    HEDGED,
    AskTarget,
    DiscardAnswer,
    Hedging,
    LostRace,
    Race,
)
from appliance.inference.attempts.retry import RetryPolicy
from appliance.inference.request.call import Call
from appliance.inference.request.errors import NOT_TRIED, can_fall_back
from appliance.inference.request.route import Route

CANCELLED = "CANCELLED"
T = TypeVar("T")


@dataclass
class CallState(Generic[T]):
    """One call in the chain. `discard` is None if it may not be hedged (any more)."""

    call: Call
    ask: AskTarget[T]
    discard: DiscardAnswer[T] | None
    log: AttemptLog
    deadline: float


class FallbackChain:
    """`clock` gives seconds."""

    def __init__(
        self,
        admission: AdmissionControl,
        retry: RetryPolicy,
        hedging: Hedging,
        clock: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._retry = retry
        self._hedging = hedging
        self._clock = clock

    async def start(
        self,
        call: Call,
        ask: AskTarget[T],
        log: AttemptLog,
        deadline: float,
        discard: DiscardAnswer[T] | None = None,
    ) -> Started[T]:
        """The first target that begins to answer. `ask` asks one target, once.

        `discard` ends an answer that is not needed; without it nothing is hedged.
        The caller enforces the `deadline` (on the clock): the chain only omits pauses that
        would end after it. Raises the error of the last target that was tried.
        """
        state = CallState(call, ask, discard, log, deadline)
        failure: ApplianceError | None = None
        min_context = 0
        remaining = list(call.route.targets)
        while (route := _next_target(remaining, failure, min_context)) is not None:
            remaining = remaining[remaining.index(route) + 1 :]
            following = _next_target(remaining, failure, min_context)
            try:
                return await self._try_with_retries(route, following, state)
            except ApplianceError as error:
                if not can_fall_back(error):
                    raise
                min_context = max(min_context, _context_tokens(route))
                failure = _more_informative(failure, error)
        raise failure or ModelUnavailable("the route has no models")

    async def _try_with_retries(
        self, route: Route, following: Route | None, state: CallState[T]
    ) -> Started[T]:
        tries = 0
        while True:
            try:
                return await self._try_or_hedge(route, following, state)
            except ApplianceError as error:
                tries += 1
                remaining_s = state.deadline - self._clock()
                pause = self._retry.pause_s(error, tries, remaining_s)
                if pause is None:
                    raise
            before = self._clock()
            await asyncio.sleep(pause)
            state.log.paused_s += self._clock() - before

    async def _try_or_hedge(
        self, route: Route, following: Route | None, state: CallState[T]
    ) -> Started[T]:
        hedge = self._hedging.hedge_target(route, following)
        if state.discard is None or hedge is None:
            return await self._try_once(route, state.call, state.ask, state.log)
        race = Race(state.ask, state.discard, self._hedging.after_s)
        try:
            return await self._run_race(route, hedge, race, state)
        finally:
            if race.hedged:
                state.discard = None

    async def _run_race(
        self, route: Route, hedge: Route, race: Race[T], state: CallState[T]
    ) -> Started[T]:
        before = self._clock()
        first, second = AttemptLog(before), AttemptLog(before)
        try:
            return await race.run(
                lambda: self._try_once(route, state.call, race.ask, first),
                lambda: self._try_once(hedge, state.call, race.ask, second),
            )
        finally:
            state.log.merge_race(first, second, self._clock() - before)

    async def _try_once(
        self, route: Route, call: Call, ask: AskTarget[T], log: AttemptLog
    ) -> Started[T]:
        permit = await self._admit(route, call, log)
        before = self._clock()
        try:
            answer = await ask(route)
        except BaseException as error:
            permit.release()
            self._record_failure(route, log, error, self._clock() - before)
            raise
        self._admission.record_success(route)
        log.add_attempt(route, "", self._clock() - before)
        return Started(route, answer, permit)

    async def _admit(self, route: Route, call: Call, log: AttemptLog) -> Permit:
        before = self._clock()
        try:
            return await self._admission.admit(route, call)
        except ApplianceError as error:
            log.add_attempt(route, error.code, 0.0)
            raise
        finally:
            log.waited_s += self._clock() - before

    def _record_failure(
        self, route: Route, log: AttemptLog, error: BaseException, seconds: float
    ) -> None:
        if isinstance(error, ApplianceError):
            log.add_attempt(route, error.code, seconds)
            self._admission.record_failure(route, error)
        else:
            log.add_attempt(route, HEDGED if isinstance(error, LostRace) else CANCELLED, seconds)
            self._admission.record_abandoned(route)


def _next_target(
    remaining: Sequence[Route], failure: ApplianceError | None, min_context: int
) -> Route | None:
    """The next target; after a prompt that was too long, the next whose context may be larger."""
    if not isinstance(failure, ContextLengthExceeded):
        return next(iter(remaining), None)
    sizes = ((each, each.info.context_tokens) for each in remaining)
    return next((each for each, size in sizes if size is None or size > min_context), None)


def _context_tokens(route: Route) -> int:
    return route.info.context_tokens or 0


def _more_informative(known: ApplianceError | None, new: ApplianceError) -> ApplianceError:
    """Prefer the error of a target that was tried over that of one that was skipped."""
    return known if known is not None and isinstance(new, NOT_TRIED) else new
