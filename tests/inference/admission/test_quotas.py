"""Quotas per provider and model, prices, data policy and shares."""

import asyncio
from typing import Any

import pytest

from appliance.config.settings import PolicySettings, PriceSettings, QuotaSettings, ShareSettings
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import Sampling, TokenUsage
from appliance.errors import Forbidden, RateLimited
from appliance.inference.admission.quotas import DAY_S, Quota, Quotas
from appliance.inference.usage.pricing import Price, Prices
from appliance.services.completions.service import CompletionService
from appliance.store.tables.usage_records import ModelCost
from tests.support.gateway_parts import (
    Scripted,
    answer,
    chat_spec,
    gateway_over,
    outcomes,
    route,
    service_over,
    user,
)
from tests.support.polling import until


class Time:
    def __init__(self) -> None:
        self.now = 10 * DAY_S

    def __call__(self) -> float:
        return self.now


def quotas_of(time: Time, **quota: Any) -> Quotas:
    return Quotas({"far": Quota(**quota)}, time, time)


def test_requests_when_the_minute_is_full_then_refused_until_one_fits_again() -> None:
    time = Time()
    quotas = quotas_of(time, requests_per_minute=2)
    for _ in range(2):
        quotas.reserve("far", "m", 0, None)
    with pytest.raises(RateLimited) as caught:
        quotas.reserve("far", "m", 0, None)
    assert caught.value.retry_after == pytest.approx(30.0)
    time.now += 30.0
    quotas.reserve("far", "m", 0, None)
    with pytest.raises(RateLimited):
        quotas.reserve("far", "m", 0, None)
    quotas.reserve("near", "m", 0, None)


def test_tokens_when_more_were_used_than_expected_then_the_bucket_is_overdrawn() -> None:
    time = Time()
    quotas = quotas_of(time, tokens_per_minute=100)
    quotas.reserve("far", "m", 10, None).settle(150, None)
    with pytest.raises(RateLimited) as caught:
        quotas.reserve("far", "m", 10, None)
    assert caught.value.retry_after == pytest.approx(36.0)
    time.now += 36.0
    quotas.reserve("far", "m", 10, None).cancel()
    quotas.reserve("far", "m", 10, None).cancel()


def test_tokens_when_one_request_is_larger_than_a_minute_then_it_waits_for_a_full_one() -> None:
    time = Time()
    quotas = quotas_of(time, tokens_per_minute=100)
    quotas.reserve("far", "m", 5000, None).cancel()
    quotas.reserve("far", "m", 5000, None).settle(5000, None)
    with pytest.raises(RateLimited):
        quotas.reserve("far", "m", 1, None)


def test_spend_when_the_day_is_used_up_then_refused_until_the_next() -> None:
    time = Time()
    time.now += 1000.0
    quotas = quotas_of(time, spend_per_day=1.0)
    running = quotas.reserve("far", "m", 0, 0.6)
    with pytest.raises(RateLimited):
        quotas.reserve("far", "m", 0, 0.6)
    running.settle(0, 0.1)
    quotas.reserve("far", "m", 0, 0.6).settle(0, 0.95)
    with pytest.raises(RateLimited) as caught:
        quotas.reserve("far", "m", 0, 0.0)
    assert caught.value.retry_after == pytest.approx(DAY_S - 1000.0)
    time.now += DAY_S
    quotas.reserve("far", "m", 0, 0.6)


def test_spend_when_the_server_starts_again_then_today_is_restored() -> None:
    quotas = Quotas({"far/m": Quota(spend_per_day=1.0)}, Time(), Time())
    quotas.restore_spend([ModelCost("far", "m", 0.9), ModelCost("far", "other", 5.0)])
    quotas.reserve("far", "m", 0, 0.05).cancel()
    with pytest.raises(RateLimited):
        quotas.reserve("far", "m", 0, 0.2)


def test_limit_when_one_of_two_is_reached_then_nothing_is_counted_for_the_other() -> None:
    time = Time()
    quotas = Quotas(
        {"far": Quota(requests_per_minute=1), "far/m": Quota(spend_per_day=1.0)}, time, time
    )
    with pytest.raises(RateLimited):
        quotas.reserve("far", "m", 0, 2.0)
    quotas.reserve("far", "m", 0, 0.5)


def test_price_when_tokens_were_cached_then_they_cost_their_own_price() -> None:
    prices = Prices({"far": Price(2.0, 10.0), "far/m": Price(1.0, 4.0, 0.25)})
    usage = TokenUsage(1_000_000, 500_000, 400_000)
    assert prices.cost("far", "m", usage) == pytest.approx(0.6 + 0.1 + 2.0)
    assert prices.cost("far", "other", usage) == pytest.approx(2.0 + 5.0)
    assert prices.cost("near", "m", usage) is None


async def test_cost_when_a_price_is_configured_then_from_exact_usage() -> None:
    prices = {"near/model": PriceSettings(input=1_000_000.0, output=2_000_000.0)}
    _, report = await answer(
        service_over(Scripted("one two three"), prices=prices), chat_spec("hello")
    )
    assert report.cost == 5 * 1.0 + 3 * 2.0


async def test_quota_when_it_is_used_up_then_the_next_model_answers_or_the_caller_waits() -> None:
    one = Scripted("one", name="one", models=("a",))
    two = Scripted("two", name="two", models=("b",))
    quotas = {"one": QuotaSettings(requests_per_minute=1)}
    service = service_over(one, two, routes=route("a", "b"), quotas=quotas)
    assert (await answer(service, chat_spec(model="smart")))[0] == "one"
    text, report = await answer(service, chat_spec(model="smart"))
    assert (text, outcomes(report)) == ("two", [("one", "RATE_LIMIT_EXCEEDED"), ("two", "")])
    with pytest.raises(RateLimited, match="1 requests a minute") as caught:
        await answer(service, chat_spec(model="a"))
    assert caught.value.retry_after is not None


async def test_quota_when_a_model_may_run_once_at_a_time_then_the_second_waits() -> None:
    go = asyncio.Event()
    gateway = gateway_over(Scripted(go), quotas={"near/model": QuotaSettings(parallel=1)})
    service = CompletionService(gateway)
    both = [asyncio.create_task(answer(service)) for _ in range(2)]
    await until(lambda: gateway.queue_load() == (1, 1))
    go.set()
    reports = [(await each)[1] for each in both]
    assert max(report.waited_s for report in reports) > 0
    assert gateway.queue_load() == (0, 0)


def local_and_remote(**policy: Any) -> dict[str, Any]:
    return {"policy": PolicySettings(**policy), "routes": route("far/m", "near/model")}


def both() -> tuple[Scripted, Scripted]:
    remote = Scripted("far", name="far", local=False, models=("m",))
    return remote, Scripted("near")


@pytest.mark.parametrize(
    ("spec", "username", "text"),
    [
        (chat_spec(model="smart"), "alice", "far"),
        (chat_spec(model="smart", labels=("public",)), "alice", "far"),
        (chat_spec(model="smart", labels=("public", "secret")), "alice", "near"),
        (chat_spec(model="smart"), "bob", "near"),
        (chat_spec(labels=("secret",)), "alice", "near"),
        (chat_spec(), "bob", "near"),
    ],
)
async def test_policy_when_a_text_must_stay_then_only_local_models_see_it(
    spec: CompletionSpec, username: str, text: str
) -> None:
    remote, local = both()
    rules = local_and_remote(local_only_labels=("secret",), local_only_users=("bob",))
    service = service_over(remote, local, default="far/m", **rules)
    assert (await answer(service, spec, user(username=username)))[0] == text
    assert bool(remote.requests) is (text == "far")


async def test_policy_when_only_a_denied_model_was_named_then_forbidden_with_the_reason() -> None:
    remote, local = both()
    service = service_over(remote, local, **local_and_remote(local_only_labels=("secret",)))
    spec = chat_spec(model="far/m", labels=("secret",))
    with pytest.raises(Forbidden, match=r"far/m may not.*'secret' never leaves this machine"):
        await service.start(user(), spec)
    with pytest.raises(Forbidden):
        await service.count_tokens(user(), spec)
    assert remote.requests == []


async def test_policy_when_a_provider_is_denied_then_nobody_uses_it() -> None:
    remote, local = both()
    service = service_over(remote, local, **local_and_remote(denied_providers=("far",)))
    assert (await answer(service, chat_spec(model="smart")))[0] == "near"
    with pytest.raises(Forbidden, match="denies far"):
        await service.start(user(), chat_spec(model="far/m"))


async def test_policy_when_a_task_is_of_a_local_only_user_then_its_text_stays_too() -> None:
    remote, local = both()
    names = {1: "alice", 2: "bob"}

    async def username(user_id: int) -> str | None:
        return names.get(user_id)

    gateway = gateway_over(
        remote, local, username=username, **local_and_remote(local_only_users=("bob",))
    )
    resolved = await gateway.resolve("smart", None)
    for owner, count in (("user:2", 0), ("user:1", 1)):
        async for _ in await gateway.start_for_task(
            resolved, chat_spec().messages, Sampling(), 5, owner
        ):
            pass
        assert len(remote.requests) == count
    with pytest.raises(Forbidden):
        await gateway.count_tokens(
            await gateway.resolve("far/m", None), chat_spec().messages, "user:2"
        )


async def test_shares_when_a_user_has_more_weight_then_more_turns() -> None:
    go, order = asyncio.Event(), list[str]()

    def note(request: Any) -> Any:
        order.append(request.owner)
        return go if len(order) == 1 else "x"

    gateway = gateway_over(
        Scripted(note, max_parallel=1), shares={"big": ShareSettings(weight=2.0)}
    )
    service = CompletionService(gateway)
    first = asyncio.create_task(answer(service, chat_spec(), user(9, username="first")))
    await until(lambda: gateway.queue_load() == (1, 0))
    tasks = [
        asyncio.create_task(answer(service, chat_spec(), user(number, username=name)))
        for number, name in ((1, "small"), (2, "big"))
        for _ in range(4)
    ]
    await until(lambda: gateway.queue_load() == (1, 8))
    go.set()
    await asyncio.gather(first, *tasks)
    assert order[1:7].count("user:2") == 4
