"""Routes, retries, fallback and circuit breakers, over scripted providers."""

import asyncio
import random

import pytest

from appliance.config.settings import GatewaySettings, RouteSettings
from appliance.domain.completions import CacheStatus
from appliance.domain.messages import CompletionRequest, Sampling
from appliance.errors import (
    ApplianceError,
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    QueueFull,
    RateLimited,
)
from appliance.inference.admission.circuit_breaker import CircuitBreaker, CircuitState
from appliance.inference.attempts.retry import RetryPolicy
from appliance.inference.request.route import WeightedModel, order_by_weight
from tests.support.agent_fakes import Answer
from tests.support.gateway_parts import (
    PERMANENT,
    RETRYABLE,
    STALLED,
    Breaking,
    Script,
    Scripted,
    answer,
    chat_spec,
    fail_then_answer,
    gateway_over,
    outcomes,
    read_all,
    route,
    service_over,
    user,
)


def pair(first: Script | Answer, second: Script | Answer = "second") -> tuple[Scripted, Scripted]:
    one = Scripted(first, name="one", local=False, models=("a",))
    two = Scripted(second, name="two", local=False, models=("b",))
    return one, two


async def test_route_when_the_first_serves_then_the_others_are_not_asked() -> None:
    one, two = pair("first")
    text, report = await answer(
        service_over(one, two, routes=route("a", "b")), chat_spec(model="smart")
    )
    assert (text, outcomes(report)) == ("first", [("one", "")])
    assert (report.provider, report.model, two.requests) == ("one", "a", [])


async def test_route_when_the_first_fails_for_good_then_the_next_answers() -> None:
    one, two = pair(PERMANENT)
    text, report = await answer(
        service_over(one, two, routes=route("a", "b")), chat_spec(model="smart")
    )
    assert (text, report.provider) == ("second", "two")
    assert outcomes(report) == [("one", "PROVIDER_ERROR"), ("two", "")]
    assert two.requests[0].model == "b"


async def test_route_when_a_try_fails_in_a_way_that_passes_then_the_same_is_tried_again() -> None:
    one, two = pair(fail_then_answer(2, RETRYABLE, "first"))
    text, report = await answer(
        service_over(one, two, routes=route("a", "b")), chat_spec(model="smart")
    )
    assert text == "first"
    assert outcomes(report) == [("one", "PROVIDER_ERROR")] * 2 + [("one", "")]


async def test_route_when_tries_are_used_up_then_the_next_answers() -> None:
    one, two = pair(RETRYABLE)
    _, report = await answer(
        service_over(one, two, routes=route("a", "b")), chat_spec(model="smart")
    )
    assert outcomes(report) == [("one", "PROVIDER_ERROR")] * 3 + [("two", "")]


async def test_route_when_all_fail_then_the_last_error_is_raised() -> None:
    one, two = pair(PERMANENT, RateLimited("too fast", retry_after=99.0))
    with pytest.raises(RateLimited) as caught:
        await answer(service_over(one, two, routes=route("a", "b")), chat_spec(model="smart"))
    assert caught.value.retry_after == 99.0


@pytest.mark.parametrize("error", [InvalidInput.at("seed", "no"), Forbidden("not you")])
async def test_route_when_the_request_is_invalid_then_nobody_else_is_asked(
    error: ApplianceError,
) -> None:
    one, two = pair(error)
    with pytest.raises(type(error)):
        await answer(service_over(one, two, routes=route("a", "b")), chat_spec(model="smart"))
    assert two.requests == []


async def test_route_when_it_ran_at_a_stall_then_nobody_else_is_asked() -> None:
    """F61: what hung one engine may hang the next."""
    one, two = pair(STALLED)
    with pytest.raises(ProviderFailed, match="no progress"):
        await answer(service_over(one, two, routes=route("a", "b")), chat_spec(model="smart"))
    assert (len(one.requests), two.requests) == (1, [])


async def test_route_when_the_prompt_is_too_long_then_one_with_a_larger_context_is_asked() -> None:
    full = ContextLengthExceeded("too long")
    small = Scripted(full, name="small", models=("a",), context_tokens=100)
    same = Scripted("same", name="same", models=("b",), context_tokens=100)
    large = Scripted("large", name="large", models=("c",), context_tokens=1000)
    service = service_over(small, same, large, routes=route("a", "b", "c"))
    text, _ = await answer(service, chat_spec(model="smart"))
    assert (text, same.requests) == ("large", [])
    with pytest.raises(ContextLengthExceeded):
        await answer(service_over(small, same, routes=route("a", "b")), chat_spec(model="smart"))


async def test_route_when_the_prompt_is_too_long_then_an_unknown_context_may_be_larger() -> None:
    small = Scripted(ContextLengthExceeded("x"), name="small", models=("a",), context_tokens=100)
    unknown = Scripted("unknown", name="unknown", models=("b",), context_tokens=None)
    service = service_over(small, unknown, routes=route("a", "b"))
    assert (await answer(service, chat_spec(model="smart")))[0] == "unknown"


async def test_route_when_it_fails_after_the_first_event_then_it_is_not_started_again() -> None:
    one, two = Breaking(1, "first and more text", name="one", models=("a",)), pair("")[1]
    service = service_over(one, two, routes=route("a", "b"))
    (completion,) = await service.start(user(), chat_spec(model="smart"))
    with pytest.raises(ProviderFailed):
        await read_all(completion)
    assert two.requests == []


async def test_route_when_a_plugin_raises_anything_then_it_is_an_error_of_the_provider() -> None:
    def crash(_: CompletionRequest) -> str:
        raise KeyError("secret")

    one, two = pair(crash)
    with pytest.raises(ProviderFailed) as caught:
        await answer(service_over(one), chat_spec(model="a"))
    assert "secret" not in caught.value.message
    text, _ = await answer(service_over(one, two, routes=route("a", "b")), chat_spec(model="smart"))
    assert text == "second"


async def test_route_when_nothing_comes_then_the_deadline_ends_it_and_frees_its_slot() -> None:
    hanging = Scripted(asyncio.Event())
    gateway = gateway_over(hanging, gateway=GatewaySettings(deadline_s=0.05))
    route = await gateway.resolve(None, None)
    with pytest.raises(DeadlineExceeded):
        async for _ in await gateway.start_for_task(route, [], Sampling(), 5, "user:1"):
            pass
    assert hanging.ended == 1
    assert gateway.queue_load() == (0, 0)


async def test_route_when_it_names_a_model_twice_or_one_that_is_gone_then_the_rest_counts() -> None:
    one, two = pair("first")
    gateway = gateway_over(one, two, routes=route("gone", "two/b", "b", "a"))
    resolved = await gateway.resolve("smart", None)
    assert [each.path for each in resolved.targets] == ["two/b", "one/a"]


async def test_route_when_it_is_the_default_then_it_serves_where_no_model_is_named() -> None:
    one, two = pair(PERMANENT)
    service = service_over(one, two, routes=route("a", "b"), default="smart")
    for model in (None, "auto"):
        text, _ = await answer(service, chat_spec(model=model))
        assert text == "second"


@pytest.mark.parametrize(
    "settings", [RouteSettings(), RouteSettings(models=("a", "b"), weights=(1.0,))]
)
def test_route_when_it_is_configured_wrongly_then_config_error(settings: RouteSettings) -> None:
    with pytest.raises(ConfigError, match=r"\[routes.smart\]"):
        gateway_over(Scripted("x"), routes={"smart": settings})


def test_order_when_there_are_weights_then_the_first_is_drawn_and_zero_never_is() -> None:
    candidates = [WeightedModel("a", 3.0), WeightedModel("b", 1.0), WeightedModel("c", 0.0)]
    chance = random.Random(1)
    orders = [[c.model for c in order_by_weight(candidates, chance)] for _ in range(4000)]
    firsts = [order[0] for order in orders]
    assert firsts.count("c") == 0
    assert 0.7 < firsts.count("a") / len(firsts) < 0.8
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert {tuple(order) for order in orders} == {("a", "b", "c"), ("b", "a", "c")}


def test_retry_when_tries_go_on_then_pauses_grow_up_to_the_maximum() -> None:
    retry = RetryPolicy(max_tries=6, base_s=1.0, max_pause_s=4.0, rng=Highest())
    pauses = [retry.pause_s(RETRYABLE, tries, 100.0) for tries in range(1, 7)]
    assert pauses == [1.0, 2.0, 4.0, 4.0, 4.0, None]


@pytest.mark.parametrize(
    ("error", "remaining_s", "pause"),
    [
        (RateLimited("slow", retry_after=2.0), 10.0, 3.0),
        (QueueFull("full", retry_after=2.0), 10.0, 3.0),
        (RateLimited("slow", retry_after=9.5), 100.0, None),
        (RateLimited("slow", retry_after=2.0), 2.5, None),
        (RateLimited("slow"), 10.0, None),
        (ModelUnavailable("loading", retry_after=1.0), 10.0, None),
        (PERMANENT, 10.0, None),
    ],
)
def test_retry_when_it_can_wait_then_as_long_as_the_error_says(
    error: ApplianceError, remaining_s: float, pause: float | None
) -> None:
    retry = RetryPolicy(max_tries=3, base_s=1.0, max_pause_s=10.0, rng=Highest())
    assert retry.pause_s(error, 1, remaining_s) == pause


async def test_breaker_when_a_provider_keeps_failing_then_it_is_paused() -> None:
    one, two = pair(RETRYABLE)
    few = GatewaySettings(breaker_failures=2, backoff_s=0.001, tries=1)
    service = service_over(one, two, routes=route("a", "b"), gateway=few)
    for _ in range(3):
        assert (await answer(service, chat_spec(model="smart")))[0] == "second"
    _, report = await answer(service, chat_spec(model="smart"))
    assert len(one.requests) == 2
    assert outcomes(report) == [("one", "MODEL_UNAVAILABLE"), ("two", "")]
    with pytest.raises(ModelUnavailable, match="one failed 2 times") as caught:
        await answer(service, chat_spec(model="a"))
    assert caught.value.retry_after is not None


def test_breaker_when_the_pause_is_over_then_one_probe_decides() -> None:
    now = [0.0]
    breaker = CircuitBreaker("far", 2, 30.0, 20.0, lambda: now[0])
    for _ in range(2):
        breaker.require_closed()
        breaker.record_failure(RETRYABLE)
    assert breaker.state is CircuitState.OPEN
    now[0] = 20.0
    breaker.require_closed()
    with pytest.raises(ModelUnavailable):
        breaker.require_closed()
    breaker.record_failure(RETRYABLE)
    assert breaker.state is CircuitState.OPEN
    now[0] = 40.0
    breaker.require_closed()
    breaker.record_abandoned()
    breaker.require_closed()
    breaker.record_success()
    assert breaker.state is CircuitState.CLOSED
    breaker.require_closed()


def test_breaker_when_failures_are_old_or_not_the_providers_then_it_stays_closed() -> None:
    now = [0.0]
    breaker = CircuitBreaker("far", 2, 30.0, 20.0, lambda: now[0])
    breaker.record_failure(RETRYABLE)
    now[0] = 31.0
    breaker.record_failure(RETRYABLE)
    assert breaker.state is CircuitState.CLOSED
    breaker.record_failure(RateLimited("slow"))
    breaker.record_failure(InvalidInput("bad"))
    breaker.record_failure(PERMANENT)
    for status in (404, 408, 409):  # F47: what one request caused
        breaker.record_failure(ProviderFailed("x", details={"retryable": True, "status": status}))
    assert breaker.state is CircuitState.CLOSED


async def test_report_when_it_ends_then_it_holds_attempts_usage_and_times() -> None:
    _, report = await answer(service_over(Scripted("one two three")), chat_spec("hello there"))
    assert (report.provider, report.model, report.cache) == ("near", "model", CacheStatus.BYPASS)
    assert (report.usage.prompt_tokens, report.usage.completion_tokens) == (6, 3)
    assert report.cost is None
    assert report.overhead_s > 0


class Highest(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b
