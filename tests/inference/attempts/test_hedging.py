"""Hedged requests: a second model is asked if the first is slow; the first to begin wins."""

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
    PERMANENT,
    RETRYABLE,
    STALLED,
    answer,
    chat_spec,
    outcomes,
    read_all,
    route,
    service_over,
    user,
)
from tests.support.hedging_parts import (
    AT_ONCE,
    FIRST_LOST,
    SECOND_LOST,
    SMART,
    DelayedFailure,
    hedged_gateway,
    hedged_service,
    hedging,
    remote,
    run_event_loop,
    set_then_answer,
    target,
)
from tests.support.polling import until


async def test_hedge_when_not_configured_then_a_slow_model_is_waited_for() -> None:
    held = asyncio.Event()
    one, two = remote("one", "a", held), remote("two", "b", "second")
    service = service_over(one, two, routes=route("a", "b"))
    answering = asyncio.create_task(answer(service, SMART))
    await until(lambda: bool(one.requests))
    await run_event_loop()
    assert two.requests == []
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]


async def test_hedge_when_the_first_is_slow_then_the_second_serves_and_the_first_is_closed() -> (
    None
):
    one, two = remote("one", "a", asyncio.Event()), remote("two", "b", "second")
    gateway = hedged_gateway(one, two)
    (completion,) = await CompletionService(gateway).start(user(), SMART)
    assert (one.ended, two.ended) == (1, 0)
    assert gateway.queue_load() == (1, 0)
    text, _, report = await read_all(completion)
    assert (text, report.provider, outcomes(report)) == ("second", "two", FIRST_LOST)
    assert gateway.queue_load() == (0, 0)
    assert report.overhead_s >= 0


async def test_hedge_when_the_first_begins_before_the_second_then_it_serves() -> None:
    asked, never = asyncio.Event(), asyncio.Event()
    one, two = remote("one", "a", asked), remote("two", "b", set_then_answer(asked, never))
    gateway = hedged_gateway(one, two)
    text, report = await answer(CompletionService(gateway), SMART)
    assert (text, report.provider, outcomes(report)) == ("too late", "one", SECOND_LOST)
    assert (two.ended, gateway.queue_load()) == (1, (0, 0))


async def test_hedge_when_the_first_is_quick_then_nobody_else_is_asked() -> None:
    one, two = remote("one", "a", "first"), remote("two", "b", "second")
    _, report = await answer(hedged_service(one, two, gateway=hedging(1000.0)), SMART)
    assert (outcomes(report), two.requests) == ([("one", "")], [])


async def test_hedge_when_the_first_fails_early_then_retries_and_fallback_are_unchanged() -> None:
    one, two = remote("one", "a", RETRYABLE), remote("two", "b", "second")
    _, report = await answer(hedged_service(one, two, gateway=hedging(1000.0)), SMART)
    assert outcomes(report) == [("one", "PROVIDER_ERROR")] * 3 + [("two", "")]


async def test_hedge_when_the_first_waits_in_the_queue_then_it_is_not_slow() -> None:
    held = asyncio.Event()
    one, two = remote("one", "a", answers_in_turn(held, "first")), remote("two", "b", "second")
    gateway = hedged_gateway(one, two, quotas={"one": QuotaSettings(parallel=1)})
    service = CompletionService(gateway)
    before = asyncio.create_task(answer(service, chat_spec(model="a")))
    await until(lambda: bool(one.requests))
    behind = asyncio.create_task(answer(service, SMART))
    await until(lambda: gateway.queue_load() == (1, 1))
    await run_event_loop()
    assert two.requests == []
    held.set()
    await before
    text, report = await behind
    assert (text, outcomes(report)) == ("first", [("one", "")])
    assert report.waited_s > 0


async def test_hedge_when_the_second_waits_in_the_queue_then_it_leaves_it_and_is_no_attempt() -> (
    None
):
    held, never = asyncio.Event(), asyncio.Event()
    one, two = remote("one", "a", held), remote("two", "b", never)
    gateway = hedged_gateway(one, two, quotas={"two": QuotaSettings(parallel=1)})
    service = CompletionService(gateway)
    before = asyncio.create_task(answer(service, chat_spec(model="b")))
    await until(lambda: bool(two.requests))
    answering = asyncio.create_task(answer(service, SMART))
    await until(lambda: gateway.queue_load() == (2, 1))
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]
    assert gateway.queue_load() == (1, 0)
    never.set()
    await before


async def test_hedge_when_the_first_fails_then_the_second_is_waited_for() -> None:
    asked, held = asyncio.Event(), asyncio.Event()
    one = DelayedFailure(asked, PERMANENT, name="one", models=("a",))
    two = remote("two", "b", set_then_answer(asked, held))
    answering = asyncio.create_task(answer(hedged_service(one, two), SMART))
    await until(lambda: bool(one.ended))
    held.set()
    assert outcomes((await answering)[1]) == [("one", "PROVIDER_ERROR"), ("two", "")]


async def test_hedge_when_the_second_is_refused_then_the_first_is_waited_for() -> None:
    held = asyncio.Event()
    one, two = remote("one", "a", held), remote("two", "b", "second")
    service = hedged_service(one, two, quotas={"two": QuotaSettings(requests_per_minute=1)})
    await answer(service, chat_spec(model="b"))
    answering = asyncio.create_task(answer(service, SMART))
    await until(lambda: bool(one.requests))
    await run_event_loop()
    held.set()
    _, report = await answering
    assert outcomes(report) == [("one", ""), ("two", "RATE_LIMIT_EXCEEDED")]


async def test_hedge_when_one_was_made_then_the_completion_is_not_hedged_again() -> None:
    asked, held = asyncio.Event(), asyncio.Event()
    one = DelayedFailure(asked, PERMANENT, name="one", models=("a",))
    two = remote("two", "b", set_then_answer(asked, PERMANENT))
    three, four = remote("three", "c", held), remote("four", "d", "fourth")
    answering = asyncio.create_task(answer(hedged_service(one, two, three, four), SMART))
    await until(lambda: bool(three.requests))
    await run_event_loop()
    assert four.requests == []
    held.set()
    _, report = await answering
    failed = [(name, "PROVIDER_ERROR") for name in ("one", "two", "two")]
    assert outcomes(report) == [*failed, ("three", "")]


async def test_hedge_when_all_fail_then_the_last_error_is_raised() -> None:
    asked = asyncio.Event()
    one = DelayedFailure(asked, PERMANENT, name="one", models=("a",))
    two = remote("two", "b", set_then_answer(asked, ProviderFailed("gone, too")))
    gateway = hedged_gateway(one, two)
    with pytest.raises(ProviderFailed, match="gone, too"):
        await answer(CompletionService(gateway), SMART)
    assert gateway.queue_load() == (0, 0)


async def test_hedge_when_the_second_stalls_then_it_is_not_asked_again() -> None:
    """F61: what hung one engine may hang the next."""
    asked = asyncio.Event()
    one = DelayedFailure(asked, PERMANENT, name="one", models=("a",))
    two, three = remote("two", "b", set_then_answer(asked, STALLED)), remote("three", "c", "third")
    with pytest.raises(ProviderFailed, match="no progress"):
        await answer(hedged_service(one, two, three), SMART)
    assert (len(two.requests), three.requests) == (1, [])


async def test_hedge_when_the_others_are_denied_then_none_is_made() -> None:
    held = asyncio.Event()
    one, two = remote("one", "a", held), remote("two", "b", "second")
    service = hedged_service(one, two, policy=PolicySettings(denied_providers=("two",)))
    answering = asyncio.create_task(answer(service, SMART))
    await until(lambda: bool(one.requests))
    await run_event_loop()
    held.set()
    assert outcomes((await answering)[1]) == [("one", "")]
    assert two.requests == []


@pytest.mark.parametrize(
    ("first", "following", "hedged"),
    [
        (target("far"), target("other"), True),
        (target("far"), target("other", ModelState.UNLOADED), True),
        (target("far"), None, False),
        (target("far"), target("near"), True),
        (target("far"), target("near", ModelState.UNLOADED), False),
        (target("far"), target("near", ModelState.LOADING), False),
        (target("near"), target("far"), False),
        (target("near", ModelState.UNLOADED), target("far"), False),
    ],
)
def test_hedge_when_a_model_is_local_then_its_load_starts_no_race(
    first: Route, following: Route | None, hedged: bool
) -> None:
    def is_local(provider: str) -> bool:
        return provider == "near"

    assert Hedging(1.0, is_local).hedge_target(first, following) == (following if hedged else None)
    assert Hedging(0.0, is_local).hedge_target(first, following) is None


async def test_hedge_when_one_loses_again_and_again_then_its_breaker_stays_closed() -> None:
    one, two = remote("one", "a", asyncio.Event()), remote("two", "b", "second")
    service = hedged_service(one, two, gateway=hedging(breaker_failures=1))
    for _ in range(3):
        assert outcomes((await answer(service, SMART))[1]) == FIRST_LOST


async def test_hedge_when_one_loses_then_its_probe_is_released() -> None:
    probing = answers_in_turn(PERMANENT, asyncio.Event(), "first")
    one, two = remote("one", "a", probing), remote("two", "b", "second")
    quick = hedging(breaker_failures=1, breaker_pause_s=AT_ONCE)
    service = hedged_service(one, two, gateway=quick)
    assert outcomes((await answer(service, SMART))[1]) == [("one", "PROVIDER_ERROR"), ("two", "")]
    assert outcomes((await answer(service, SMART))[1]) == FIRST_LOST
    assert outcomes((await answer(service, SMART))[1]) == [("one", "")]


async def test_hedge_when_one_loses_then_its_tokens_are_released() -> None:
    one, two = remote("one", "a", asyncio.Event()), remote("two", "b", "second")
    service = hedged_service(one, two, quotas={"one": QuotaSettings(tokens_per_minute=6)})
    for _ in range(3):
        assert outcomes((await answer(service, SMART))[1]) == FIRST_LOST
