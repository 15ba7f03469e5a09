"""Hedging: where a model is slow to begin, a second one is asked too, and the faster one serves."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance.domain.models import ModelState
from appliance.errors import ApplianceError
from appliance.inference.attempts.attempt_log import Begun
from appliance.inference.request.route import Route

HEDGED = "HEDGED"
T = TypeVar("T")
Ask = Callable[[Route], Awaitable[T]]
Drop = Callable[[Route, T], Awaitable[None]]
Leg = Callable[[], Awaitable[Begun[T]]]


class Hedged(Exception):
    """The other model was faster. Known inside a race only."""


Outcome = Begun[T] | ApplianceError | Hedged


@dataclass(frozen=True)
class Hedging:
    """A second model is asked `after_s` seconds after the first one was; 0: never."""

    after_s: float
    is_local: Callable[[str], bool]

    def beside(self, route: Route, then: Route | None) -> Route | None:
        """The candidate to ask beside this one, if it is slow: the one that comes next.

        A model of the box is waited for: what it is slow by is its own load, and the far
        ones cost. Nor is one of the box loaded for what may not need it.
        """
        if not self.after_s or then is None or self.is_local(route.provider):
            return None
        idle = self.is_local(then.provider) and then.info.state is not ModelState.READY
        return None if idle else then


class Race(Generic[T]):
    """Between two candidates for the first event; to be run once.

    `ask` asks one, and `drop` ends an answer that came second. `sleep` waits for seconds.
    """

    def __init__(
        self,
        ask: Ask[T],
        drop: Drop[T],
        after_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._drop = drop
        self._after_s = after_s
        self._sleep = sleep
        self._asked = asyncio.Event()
        self._won = False
        self.hedged = False

    async def ask(self, route: Route) -> T:
        """The first event of a candidate. Raises Hedged if the other one's came before."""
        self._asked.set()
        try:
            answer = await self._ask(route)
            if not self._won:
                self._won = True
                return answer
            await self._drop(route, answer)
        except (ApplianceError, asyncio.CancelledError):
            # How the slower one ends when it is ended says nothing about it.
            if not self._won:
                raise
        raise Hedged

    async def run(self, first: Leg[T], second: Leg[T]) -> Begun[T]:
        """What the faster one gave; both ask through `ask`. The other has ended by then.

        Raises what the first failed with if none serves.
        """
        legs: list[asyncio.Task[Outcome[T]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                legs += [
                    group.create_task(_outcome(first())),
                    group.create_task(_outcome(self._later(second))),
                ]
                await self._decided(legs)
        except BaseException:
            await self._abandon(legs)
            raise
        return _served(_outcomes(legs))

    async def _later(self, second: Leg[T]) -> Begun[T]:
        """The second one, when the first has been slow; its wait at the gate is no slowness."""
        await self._asked.wait()
        await self._sleep(self._after_s)
        self.hedged = True
        return await second()

    async def _decided(self, legs: Sequence[asyncio.Task[Outcome[T]]]) -> None:
        """Until one serves or none can; what still runs then is to end."""
        running = set(legs)
        while running:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if self._won or not self.hedged:
                break
        for leg in running:
            leg.cancel()

    async def _abandon(self, legs: Sequence[asyncio.Task[Outcome[T]]]) -> None:
        """Nobody waits any more, and one may have begun in the last moment."""
        for outcome in _outcomes(legs):
            if isinstance(outcome, Begun):
                try:
                    await self._drop(outcome.route, outcome.answer)
                finally:
                    outcome.entered.release()


async def _outcome(leg: Awaitable[Begun[T]]) -> Outcome[T]:
    try:
        return await leg
    except (ApplianceError, Hedged) as error:
        return error


def _outcomes(legs: Sequence[asyncio.Task[Outcome[T]]]) -> list[Outcome[T]]:
    """Of those that came to an end by themselves."""
    return [leg.result() for leg in legs if not leg.cancelled() and leg.exception() is None]


def _served(outcomes: Sequence[Outcome[T]]) -> Begun[T]:
    for outcome in outcomes:
        if isinstance(outcome, Begun):
            return outcome
    # There is none if the provider cancelled itself: then so is who asked it.
    raise next((each for each in outcomes if isinstance(each, Exception)), asyncio.CancelledError())
