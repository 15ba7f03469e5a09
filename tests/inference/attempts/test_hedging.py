"""A second model is asked beside a slow one, and the faster one serves."""

import asyncio

import pytest

from appliance.config.settings import PolicySettings, QuotaSettings
from appliance.domain.models import ModelState
from appliance.errors import ProviderFailed
from appliance.inference.attempts.hedging import Hedging
from appliance.inference.request.route import Route
from appliance.services.completions.service import CompletionService
from tests.support.agent_fakes import answers_in_turn
from tests.support.gateway_parts import (
    AWAKE,
    BROKEN,
    answer,
    ask,
    outcomes,
    read,
    route,
    service_over,
    user,
)
from tests.support.hedging_parts import (
    AT_ONCE,
    SLOW_FIRST,
    SLOW_SECOND,
    SMART,
    Held,
    candidate,
    far,
    frees,
    hedging,
    over,
    service,
    turns,
)
from tests.support.task_box import until


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
    assert gateway.queue_load() == (1, 0)
    text, _, report = await read(completion)
    assert (text, report.provider, outcomes(report)) == ("second", "two", SLOW_FIRST)
    assert gateway.queue_load() == (0, 0)
    assert report.overhead_s >= 0


async def test_hedge_when_the_first_begins_before_the_second_then_it_serves() -> None:
    asked, never = asyncio.Event(), asyncio.Event()
    one, two = far("one", "a", asked), far("two", "b", frees(asked, never))
    gateway = over(one, two)
    text, report = await answer(CompletionService(gateway), SMART)
    assert (text, report.provider, outcomes(report)) == ("too late", "one", SLOW_SECOND)
    assert (two.ended, gateway.queue_load()) == (1, (0, 0))


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
    one, two = far("one", "a", answers_in_turn(held, "first")), far("two", "b", "second")
    gateway = over(one, two, quotas={"one": QuotaSettings(parallel=1)})
    box = CompletionService(gateway)
    before = asyncio.create_task(answer(box, ask(model="a")))
    await until(lambda: bool(one.requests))
    behind = asyncio.create_task(answer(box, SMART))
    await until(lambda: gateway.queue_load() == (1, 1))
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
    await until(lambda: gateway.queue_load() == (2, 1))
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]
    assert gateway.queue_load() == (1, 0)
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
    assert gateway.queue_load() == (0, 0)


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

    assert Hedging(1.0, is_local).hedge_target(first, then) == (then if made else None)
    assert Hedging(0.0, is_local).hedge_target(first, then) is None


async def test_hedge_when_one_loses_again_and_again_then_its_breaker_stays_closed() -> None:
    one, two = far("one", "a", asyncio.Event()), far("two", "b", "second")
    box = service(one, two, gateway=hedging(breaker_failures=1))
    for _ in range(3):
        assert outcomes((await answer(box, SMART))[1]) == SLOW_FIRST


async def test_hedge_when_one_loses_then_its_probe_is_given_back() -> None:
    probing = answers_in_turn(BROKEN, asyncio.Event(), "first")
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
