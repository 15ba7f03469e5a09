"""What is left of two models asked beside each other: in the books, at the gate, of the race."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.completions import CompletionReport, CompletionSpec
from appliance.domain.usage import UsageStatus
from appliance.errors import DeadlineExceeded, ProviderFailed
from appliance.inference import Gateway
from appliance.inference.admission.admission import Permit
from appliance.inference.attempts.attempt_log import Started
from appliance.inference.attempts.hedging import Race
from appliance.inference.request.route import Route
from appliance.services.completions.service import CompletionService
from appliance.store.sqlite.database import Database
from appliance.store.tables import usage_records
from tests.support.gateway_parts import (
    Breaking,
    answer,
    outcomes,
    read,
    user,
)
from tests.support.hedging_parts import (
    SLOW_FIRST,
    SLOW_SECOND,
    SMART,
    candidate,
    far,
    hedging,
    over,
    service,
    turns,
)
from tests.support.task_box import until


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    database = await Database.open(tmp_path / "box.db")
    yield database
    await database.close()


async def booked(
    gateway: Gateway, db: Database, asked: CompletionSpec
) -> tuple[CompletionReport, list[Any]]:
    """One answer, and what the books say of it: provider, status, exact."""
    await gateway.start()
    _, report = await answer(CompletionService(gateway), asked)
    await gateway.close()
    async with db.read() as connection:
        records = await usage_records.of_user(connection, 1, 0.0, 10)
    return report, sorted((r.provider, r.status, r.exact) for r in records)


async def test_books_when_one_has_not_begun_then_only_the_other_is_in_them(db: Database) -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", "second")
    _, records = await booked(over(one, two, db=db), db, SMART)
    assert records == [("two", UsageStatus.COMPLETED, True)]


async def test_books_when_both_begin_at_once_then_the_later_one_is_cancelled(db: Database) -> None:
    both = asyncio.Event()
    one, two = far("one", "a", both), far("two", "b", both)
    gateway = over(one, two, db=db)
    asked = asyncio.create_task(until(lambda: bool(two.requests)))
    asked.add_done_callback(lambda _: both.set())
    report, records = await booked(gateway, db, SMART)
    assert outcomes(report) == SLOW_SECOND
    assert records == [
        ("one", UsageStatus.COMPLETED, True),
        ("two", UsageStatus.CANCELLED, False),
    ]
    assert (two.ended, gateway.queue_load()) == (1, (0, 0))


async def test_hedge_when_the_deadline_comes_then_both_are_closed() -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", asyncio.Event())
    gateway = over(one, two, gateway=hedging(deadline_s=0.05))
    with pytest.raises(DeadlineExceeded):
        await answer(CompletionService(gateway), SMART)
    assert (one.ended, two.ended, gateway.queue_load()) == (1, 1, (0, 0))


@pytest.mark.parametrize("moment", range(16))
async def test_hedge_when_the_caller_leaves_at_any_moment_then_nothing_is_left(moment: int) -> None:
    both = asyncio.Event()
    one, two = far("one", "a", both), far("two", "b", both)
    gateway = over(one, two)
    answering = asyncio.create_task(answer(CompletionService(gateway), SMART))
    if moment > 5:
        await until(lambda: bool(two.requests))
        both.set()
    await turns(moment % 10)
    answering.cancel()
    with suppress(asyncio.CancelledError):
        await answering
    assert gateway.queue_load() == (0, 0)
    assert (one.ended, two.ended) == (len(one.requests), len(two.requests))


async def test_hedge_when_the_winner_breaks_later_then_nobody_else_is_asked() -> None:
    one = far("one", "a", asyncio.Event())
    two = Breaking(1, "first and more", name="two", models=("b",))
    (completion,) = await service(one, two).start(user(), SMART)
    with pytest.raises(ProviderFailed):
        await read(completion)
    assert outcomes(completion.report) == SLOW_FIRST
    assert (len(one.requests), len(two.requests)) == (1, 1)


class Place(Permit):
    """A place at the gate that only knows whether it was given back."""

    def __init__(self) -> None:
        self.free = False

    def release(self) -> None:
        self.free = True


async def test_race_when_time_is_not_up_then_the_second_is_not_asked() -> None:
    slept: list[float] = []
    up, begun = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await up.wait()

    async def first_event(route: Route) -> str:
        await begun.wait()
        return route.provider

    async def drop(_route: Route, _answer: str) -> None:
        raise AssertionError("nobody came second")

    race = Race(first_event, drop, 7.0, sleep)

    async def leg() -> Started[str]:
        return Started(candidate("far"), await race.ask(candidate("far")), Place())

    async def never() -> Started[str]:
        raise AssertionError("it was asked too early")

    running = asyncio.create_task(race.run(leg, never))
    await turns()
    begun.set()
    assert (await running).answer == "far"
    assert (slept, race.hedged) == ([7.0], False)


async def test_race_when_it_is_left_in_the_moment_of_winning_then_the_winner_is_dropped() -> None:
    dropped: list[str] = []
    place = Place()

    async def first_event(route: Route) -> str:
        return route.provider

    async def drop(_route: Route, answer: str) -> None:
        dropped.append(answer)

    race = Race(first_event, drop, 1000.0)

    async def leg() -> Started[str]:
        answer = await race.ask(candidate("far"))
        running.cancel()
        return Started(candidate("far"), answer, place)

    running: asyncio.Task[Started[str]] = asyncio.create_task(race.run(leg, leg))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (dropped, place.free) == (["far"], True)
