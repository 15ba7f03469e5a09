"""A second model is asked beside a slow one, and the faster one serves."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.completions import Ask, Report
from appliance.domain.messages import CompletionRequest
from appliance.domain.models import ModelInfo, ModelState
from appliance.domain.usage import UsageStatus
from appliance.errors import ApplianceError, DeadlineExceeded, ProviderFailed
from appliance.inference import Gateway
from appliance.inference.doors import Entered
from appliance.inference.hedging import Hedging, Race
from appliance.inference.routes import Route
from appliance.inference.trace import Begun
from appliance.services.completion_service import CompletionService
from appliance.settings import GatewaySettings, PolicySettings, QuotaSettings
from appliance.store import usage_records
from appliance.store.database import Database
from tests.support.agent_fakes import Answer, in_turn
from tests.support.gateway_parts import (
    AWAKE,
    BROKEN,
    Breaking,
    Script,
    Scripted,
    answer,
    ask,
    gateway_over,
    outcomes,
    read,
    route,
    service_over,
    user,
)
from tests.support.task_box import until

AT_ONCE = 1e-6
SMART = ask(model="smart")
SLOW_SECOND = [("one", ""), ("two", "HEDGED")]
SLOW_FIRST = [("one", "HEDGED"), ("two", "")]


def far(name: str, model: str, script: Script | Answer, **more: Any) -> Scripted:
    return Scripted(script, name=name, local=False, models=(model,), **more)


def hedging(after_s: float = AT_ONCE, **more: Any) -> GatewaySettings:
    return GatewaySettings(hedge_after_s=after_s, backoff_s=0.001, **more)


def over(*providers: Scripted, **more: Any) -> Gateway:
    """A gateway whose route "smart" leads along all of the providers' models."""
    models = [f"{p.name}/{'abcd'[place]}" for place, p in enumerate(providers)]
    sections: dict[str, Any] = {"gateway": hedging(), "routes": route(*models)}
    return gateway_over(*providers, **(sections | more))


def service(*providers: Scripted, **more: Any) -> CompletionService:
    return CompletionService(over(*providers, **more))


def frees(event: asyncio.Event, answer: Answer) -> Callable[[CompletionRequest], Answer]:
    """Answers so, and sets the event when asked."""

    def script(_: CompletionRequest) -> Answer:
        event.set()
        return answer

    return script


class Held(Scripted):
    """Fails when the event is set, and not before."""

    def __init__(self, event: asyncio.Event, error: ApplianceError, **more: Any) -> None:
        super().__init__(event, local=False, **more)
        self._error = error

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[Any, None]:
        async for _ in super().stream(request):
            raise self._error
        yield


async def turns(count: int = 50) -> None:
    """Let whatever can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_hedge_when_not_configured_then_a_slow_model_is_waited_for() -> None:
    held = asyncio.Event()
    one, two = far("one", "a", held), far("two", "b", "second")
    box = service_over(one, two, routes=route("a", "b"))
    answering = asyncio.create_task(answer(box, SMART))
    await until(lambda: bool(one.requests))
    await turns()
    assert two.requests == []
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]


async def test_hedge_when_the_first_is_slow_then_the_second_serves_and_the_first_is_closed() -> (
    None
):
    one, two = far("one", "a", asyncio.Event()), far("two", "b", "second")
    gateway = over(one, two)
    (completion,) = await CompletionService(gateway).start(user(), SMART)
    assert (one.ended, two.ended) == (1, 0)
    assert gateway.load_of_gate() == (1, 0)
    text, _, report = await read(completion)
    assert (text, report.provider, outcomes(report)) == ("second", "two", SLOW_FIRST)
    assert gateway.load_of_gate() == (0, 0)
    assert report.overhead_s >= 0


async def test_hedge_when_the_first_begins_before_the_second_then_it_serves() -> None:
    asked, never = asyncio.Event(), asyncio.Event()
    one, two = far("one", "a", asked), far("two", "b", frees(asked, never))
    gateway = over(one, two)
    text, report = await answer(CompletionService(gateway), SMART)
    assert (text, report.provider, outcomes(report)) == ("too late", "one", SLOW_SECOND)
    assert (two.ended, gateway.load_of_gate()) == (1, (0, 0))


async def test_hedge_when_the_first_is_quick_then_nobody_else_is_asked() -> None:
    one, two = far("one", "a", "first"), far("two", "b", "second")
    _, report = await answer(service(one, two, gateway=hedging(1000.0)), SMART)
    assert (outcomes(report), two.requests) == ([("one", "")], [])


async def test_hedge_when_the_first_fails_early_then_tries_and_fallback_are_as_ever() -> None:
    one, two = far("one", "a", AWAKE), far("two", "b", "second")
    _, report = await answer(service(one, two, gateway=hedging(1000.0)), SMART)
    assert outcomes(report) == [("one", "PROVIDER_ERROR")] * 3 + [("two", "")]


async def test_hedge_when_the_first_waits_at_the_gate_then_it_is_not_slow() -> None:
    held = asyncio.Event()
    one, two = far("one", "a", in_turn(held, "first")), far("two", "b", "second")
    gateway = over(one, two, quotas={"one": QuotaSettings(parallel=1)})
    box = CompletionService(gateway)
    before = asyncio.create_task(answer(box, ask(model="a")))
    await until(lambda: bool(one.requests))
    behind = asyncio.create_task(answer(box, SMART))
    await until(lambda: gateway.load_of_gate() == (1, 1))
    await turns()
    assert two.requests == []
    held.set()
    await before
    text, report = await behind
    assert (text, outcomes(report)) == ("first", [("one", "")])
    assert report.waited_s > 0


async def test_hedge_when_the_second_waits_at_the_gate_then_it_leaves_it_and_is_no_attempt() -> (
    None
):
    held, never = asyncio.Event(), asyncio.Event()
    one, two = far("one", "a", held), far("two", "b", never)
    gateway = over(one, two, quotas={"two": QuotaSettings(parallel=1)})
    box = CompletionService(gateway)
    before = asyncio.create_task(answer(box, ask(model="b")))
    await until(lambda: bool(two.requests))
    answering = asyncio.create_task(answer(box, SMART))
    await until(lambda: gateway.load_of_gate() == (2, 1))
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]
    assert gateway.load_of_gate() == (1, 0)
    never.set()
    await before


async def test_hedge_when_the_first_fails_then_the_second_is_waited_for() -> None:
    asked, held = asyncio.Event(), asyncio.Event()
    one = Held(asked, BROKEN, name="one", models=("a",))
    two = far("two", "b", frees(asked, held))
    answering = asyncio.create_task(answer(service(one, two), SMART))
    await until(lambda: bool(one.ended))
    held.set()
    assert outcomes((await answering)[1]) == [("one", "PROVIDER_ERROR"), ("two", "")]


async def test_hedge_when_the_second_is_refused_then_the_first_is_waited_for() -> None:
    held = asyncio.Event()
    one, two = far("one", "a", held), far("two", "b", "second")
    box = service(one, two, quotas={"two": QuotaSettings(requests_per_minute=1)})
    await answer(box, ask(model="b"))
    answering = asyncio.create_task(answer(box, SMART))
    await until(lambda: bool(one.requests))
    await turns()
    held.set()
    _, report = await answering
    assert outcomes(report) == [("one", ""), ("two", "RATE_LIMIT_EXCEEDED")]


async def test_hedge_when_one_was_made_then_the_completion_makes_no_other() -> None:
    asked, held = asyncio.Event(), asyncio.Event()
    one = Held(asked, BROKEN, name="one", models=("a",))
    two = far("two", "b", frees(asked, BROKEN))
    three, four = far("three", "c", held), far("four", "d", "fourth")
    answering = asyncio.create_task(answer(service(one, two, three, four), SMART))
    await until(lambda: bool(three.requests))
    await turns()
    assert four.requests == []
    held.set()
    _, report = await answering
    failed = [(name, "PROVIDER_ERROR") for name in ("one", "two", "two")]
    assert outcomes(report) == [*failed, ("three", "")]


async def test_hedge_when_all_fail_then_the_last_error_is_told() -> None:
    asked = asyncio.Event()
    one = Held(asked, BROKEN, name="one", models=("a",))
    two = far("two", "b", frees(asked, ProviderFailed("gone, too")))
    gateway = over(one, two)
    with pytest.raises(ProviderFailed, match="gone, too"):
        await answer(CompletionService(gateway), SMART)
    assert gateway.load_of_gate() == (0, 0)


async def test_hedge_when_the_others_are_barred_then_none_is_made() -> None:
    held = asyncio.Event()
    one, two = far("one", "a", held), far("two", "b", "second")
    box = service(one, two, policy=PolicySettings(denied_providers=("two",)))
    answering = asyncio.create_task(answer(box, SMART))
    await until(lambda: bool(one.requests))
    await turns()
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]
    assert two.requests == []


def candidate(provider: str, state: ModelState = ModelState.READY) -> Route:
    return Route(provider, "m", ModelInfo(name="m", provider=provider, state=state))


@pytest.mark.parametrize(
    ("first", "then", "made"),
    [
        (candidate("far"), candidate("other"), True),
        (candidate("far"), candidate("other", ModelState.UNLOADED), True),
        (candidate("far"), None, False),
        (candidate("far"), candidate("near"), True),
        (candidate("far"), candidate("near", ModelState.UNLOADED), False),
        (candidate("far"), candidate("near", ModelState.LOADING), False),
        (candidate("near"), candidate("far"), False),
        (candidate("near", ModelState.UNLOADED), candidate("far"), False),
    ],
)
def test_hedge_when_a_model_is_of_the_box_then_its_load_makes_none(
    first: Route, then: Route | None, made: bool
) -> None:
    def is_local(provider: str) -> bool:
        return provider == "near"

    assert Hedging(1.0, is_local).beside(first, then) == (then if made else None)
    assert Hedging(0.0, is_local).beside(first, then) is None


async def test_hedge_when_one_loses_again_and_again_then_its_breaker_stays_closed() -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", "second")
    box = service(one, two, gateway=hedging(breaker_failures=1))
    for _ in range(3):
        assert outcomes((await answer(box, SMART))[1]) == SLOW_FIRST


async def test_hedge_when_one_loses_then_its_probe_is_given_back() -> None:
    probing = in_turn(BROKEN, asyncio.Event(), "first")
    one, two = far("one", "a", probing), far("two", "b", "second")
    quick = hedging(breaker_failures=1, breaker_pause_s=AT_ONCE)
    box = service(one, two, gateway=quick)
    assert outcomes((await answer(box, SMART))[1]) == [("one", "PROVIDER_ERROR"), ("two", "")]
    assert outcomes((await answer(box, SMART))[1]) == SLOW_FIRST
    assert outcomes((await answer(box, SMART))[1]) == [("one", "")]


async def test_hedge_when_one_loses_then_its_tokens_are_given_back() -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", "second")
    box = service(one, two, quotas={"one": QuotaSettings(tokens_per_minute=6)})
    for _ in range(3):
        assert outcomes((await answer(box, SMART))[1]) == SLOW_FIRST


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    database = await Database.open(tmp_path / "box.db")
    yield database
    await database.close()


async def booked(gateway: Gateway, db: Database, asked: Ask) -> tuple[Report, list[Any]]:
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
    assert (two.ended, gateway.load_of_gate()) == (1, (0, 0))


async def test_hedge_when_the_deadline_comes_then_both_are_closed() -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", asyncio.Event())
    gateway = over(one, two, gateway=hedging(deadline_s=0.05))
    with pytest.raises(DeadlineExceeded):
        await answer(CompletionService(gateway), SMART)
    assert (one.ended, two.ended, gateway.load_of_gate()) == (1, 1, (0, 0))


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
    assert gateway.load_of_gate() == (0, 0)
    assert (one.ended, two.ended) == (len(one.requests), len(two.requests))


async def test_hedge_when_the_winner_breaks_later_then_nobody_else_is_asked() -> None:
    one = far("one", "a", asyncio.Event())
    two = Breaking(1, "first and more", name="two", models=("b",))
    (completion,) = await service(one, two).start(user(), SMART)
    with pytest.raises(ProviderFailed):
        await read(completion)
    assert outcomes(completion.report) == SLOW_FIRST
    assert (len(one.requests), len(two.requests)) == (1, 1)


class Place(Entered):
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

    async def leg() -> Begun[str]:
        return Begun(candidate("far"), await race.ask(candidate("far")), Place())

    async def never() -> Begun[str]:
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

    async def leg() -> Begun[str]:
        answer = await race.ask(candidate("far"))
        running.cancel()
        return Begun(candidate("far"), answer, place)

    running: asyncio.Task[Begun[str]] = asyncio.create_task(race.run(leg, leg))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (dropped, place.free) == (["far"], True)
