"""How a hedged request ends: usage records, released permits, the race itself."""

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
    read_all,
    user,
)
from tests.support.hedging_parts import (
    FIRST_LOST,
    SECOND_LOST,
    SMART,
    hedged_gateway,
    hedged_service,
    hedging,
    remote,
    run_event_loop,
    target,
)
from tests.support.polling import until


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    database = await Database.open(tmp_path / "monkey.db")
    yield database
    await database.close()


async def recorded(
    gateway: Gateway, db: Database, spec: CompletionSpec
) -> tuple[CompletionReport, list[Any]]:
    """One answer and its usage records: provider, status, exact."""
    await gateway.start()
    _, report = await answer(CompletionService(gateway), spec)
    await gateway.close()
    async with db.read() as connection:
        records = await usage_records.list_for_user(connection, 1, 0.0, 10)
    return report, sorted((r.provider, r.status, r.exact) for r in records)


async def test_usage_when_one_has_not_started_then_only_the_other_is_recorded(db: Database) -> None:
    one, two = remote("one", "a", asyncio.Event()), remote("two", "b", "second")
    _, records = await recorded(hedged_gateway(one, two, db=db), db, SMART)
    assert records == [("two", UsageStatus.COMPLETED, True)]


async def test_usage_when_both_start_at_once_then_the_later_one_is_cancelled(db: Database) -> None:
    both = asyncio.Event()
    one, two = remote("one", "a", both), remote("two", "b", both)
    gateway = hedged_gateway(one, two, db=db)
    asked = asyncio.create_task(until(lambda: bool(two.requests)))
    asked.add_done_callback(lambda _: both.set())
    report, records = await recorded(gateway, db, SMART)
    assert outcomes(report) == SECOND_LOST
    assert records == [
        ("one", UsageStatus.COMPLETED, True),
        ("two", UsageStatus.CANCELLED, False),
    ]
    assert (two.ended, gateway.queue_load()) == (1, (0, 0))


async def test_hedge_when_the_deadline_comes_then_both_are_closed() -> None:
    one, two = remote("one", "a", asyncio.Event()), remote("two", "b", asyncio.Event())
    gateway = hedged_gateway(one, two, gateway=hedging(deadline_s=0.05))
    with pytest.raises(DeadlineExceeded):
        await answer(CompletionService(gateway), SMART)
    assert (one.ended, two.ended, gateway.queue_load()) == (1, 1, (0, 0))


@pytest.mark.parametrize("moment", range(16))
async def test_hedge_when_the_caller_cancels_at_any_moment_then_nothing_leaks(moment: int) -> None:
    both = asyncio.Event()
    one, two = remote("one", "a", both), remote("two", "b", both)
    gateway = hedged_gateway(one, two)
    answering = asyncio.create_task(answer(CompletionService(gateway), SMART))
    if moment > 5:
        await until(lambda: bool(two.requests))
        both.set()
    await run_event_loop(moment % 10)
    answering.cancel()
    with suppress(asyncio.CancelledError):
        await answering
    assert gateway.queue_load() == (0, 0)
    assert (one.ended, two.ended) == (len(one.requests), len(two.requests))


async def test_hedge_when_the_winner_breaks_later_then_nobody_else_is_asked() -> None:
    one = remote("one", "a", asyncio.Event())
    two = Breaking(1, "first and more", name="two", models=("b",))
    (completion,) = await hedged_service(one, two).start(user(), SMART)
    with pytest.raises(ProviderFailed):
        await read_all(completion)
    assert outcomes(completion.report) == FIRST_LOST
    assert (len(one.requests), len(two.requests)) == (1, 1)


class CountedPermit(Permit):
    """A permit that only knows whether it was released."""

    def __init__(self) -> None:
        self.released = False

    def release(self) -> None:
        self.released = True


async def test_race_when_time_is_not_up_then_the_second_is_not_asked() -> None:
    slept: list[float] = []
    up, started = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await up.wait()

    async def first_event(route: Route) -> str:
        await started.wait()
        return route.provider

    async def discard(_route: Route, _answer: str) -> None:
        raise AssertionError("nobody came second")

    race = Race(first_event, discard, 7.0, sleep)

    async def leg() -> Started[str]:
        return Started(target("far"), await race.ask(target("far")), CountedPermit())

    async def never() -> Started[str]:
        raise AssertionError("it was asked too early")

    running = asyncio.create_task(race.run(leg, never))
    await run_event_loop()
    started.set()
    assert (await running).answer == "far"
    assert (slept, race.hedged) == ([7.0], False)


async def test_race_when_it_is_cancelled_as_one_wins_then_the_winner_is_discarded() -> None:
    discarded: list[str] = []
    permit = CountedPermit()

    async def first_event(route: Route) -> str:
        return route.provider

    async def discard(_route: Route, answer: str) -> None:
        discarded.append(answer)

    race = Race(first_event, discard, 1000.0)

    async def leg() -> Started[str]:
        answer = await race.ask(target("far"))
        running.cancel()
        return Started(target("far"), answer, permit)

    running: asyncio.Task[Started[str]] = asyncio.create_task(race.run(leg, leg))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (discarded, permit.released) == (["far"], True)
