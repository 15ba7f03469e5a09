"""Hedged requests: if a target is slow to begin, a second one is asked; the first to begin wins.

See Dean and Barroso, "The Tail at Scale" (2013). The race ends at the first event of an answer:
the loser is cancelled, and whatever it began is discarded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.domain.models import ModelState
from appliance.errors import ApplianceError
from appliance.inference.attempts.attempt_log import Started
from appliance.inference.request.errors import can_fall_back
from appliance.inference.request.route import Route

HEDGED = "HEDGED"
T = TypeVar("T")
AskTarget = Callable[[Route], Awaitable[T]]
DiscardAnswer = Callable[[Route, T], Awaitable[None]]
Leg = Callable[[], Awaitable[Started[T]]]


class LostRace(Exception):
    """The other target began first. Never leaves the race."""


LegOutcome = Started[T] | ApplianceError | LostRace


@dataclass(frozen=True)
class Hedging:
    """The second target is asked `after_s` seconds after the first; 0: never."""

    after_s: float
    is_local: Callable[[str], bool]

    def hedge_target(self, route: Route, following: Route | None) -> Route | None:
        """The second target of a race with `route`: the one that follows, or None.

        A local model is not hedged: its own load makes it slow, and remote models cost money.
        Nor is a local model loaded for an answer that may not be needed.
        """
        if not self.after_s or following is None or self.is_local(route.provider):
            return None
        local = self.is_local(following.provider)
        return None if local and following.info.state is not ModelState.READY else following


class Race(Generic[T]):
    """One race between two targets for the first event.

    `ask` asks one target, `discard` ends an answer that came second, `sleep` waits for seconds.
    """

    def __init__(
        self,
        ask: AskTarget[T],
        discard: DiscardAnswer[T],
        after_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._discard = discard
        self._after_s = after_s
        self._sleep = sleep
        self._first_asked = asyncio.Event()
        self._won = False
        self.hedged = False

    async def ask(self, route: Route) -> T:
        """The first event of a target. Raises LostRace if the other one's came first."""
        self._first_asked.set()
        try:
            answer = await self._ask(route)
            if not self._won:
                self._won = True
                return answer
            await self._discard(route, answer)
        except (ApplianceError, asyncio.CancelledError):
            # The error of a loser that was cancelled says nothing about its provider.
            if not self._won:
                raise
        raise LostRace

    async def run(self, first: Leg[T], second: Leg[T]) -> Started[T]:
        """The winner; the other leg has ended when this returns. Both legs call `ask`.

        If neither begins to answer, raises an error that excludes further targets, else that of
        the first leg.
        """
        legs: list[asyncio.Task[LegOutcome[T]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                legs += [
                    group.create_task(_run_leg(first())),
                    group.create_task(_run_leg(self._delay(second))),
                ]
                await self._wait_for_winner(legs)
        except BaseException:
            await self._discard_started(legs)
            raise
        return _winner(_outcomes(legs))

    async def _delay(self, second: Leg[T]) -> Started[T]:
        """The time that the first target waits in its queue does not count."""
        await self._first_asked.wait()
        await self._sleep(self._after_s)
        self.hedged = True
        return await second()

    async def _wait_for_winner(self, legs: Sequence[asyncio.Task[LegOutcome[T]]]) -> None:
        """Wait until one leg wins or none can, then cancel what still runs."""
        running = set(legs)
        while running:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if self._won or not self.hedged:
                break
        for leg in running:
            leg.cancel()

    async def _discard_started(self, legs: Sequence[asyncio.Task[LegOutcome[T]]]) -> None:
        """After a cancellation of the race: a leg may have won at the same moment."""
        for outcome in _outcomes(legs):
            if isinstance(outcome, Started):
                try:
                    await self._discard(outcome.route, outcome.answer)
                finally:
                    outcome.permit.release()


async def _run_leg(leg: Awaitable[Started[T]]) -> LegOutcome[T]:
    try:
        return await leg
    except (ApplianceError, LostRace) as error:
        return error


def _outcomes(legs: Sequence[asyncio.Task[LegOutcome[T]]]) -> list[LegOutcome[T]]:
    """The outcomes of the legs that were not cancelled."""
    return [leg.result() for leg in legs if not leg.cancelled() and leg.exception() is None]


def _winner(outcomes: Sequence[LegOutcome[T]]) -> Started[T]:
    for outcome in outcomes:
        if isinstance(outcome, Started):
            return outcome
    errors = [each for each in outcomes if isinstance(each, Exception)]
    for error in errors:
        if isinstance(error, ApplianceError) and not can_fall_back(error):
            raise error
    # Without any outcome the provider has cancelled itself, which cancels the caller, too.
    raise next(iter(errors), asyncio.CancelledError())
