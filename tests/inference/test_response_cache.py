"""The response cache: what is kept, for whom, and for how long."""

from typing import Any

import pytest
from msgspec.structs import replace

from appliance.config.settings import CacheSettings
from appliance.domain.completions import CacheStatus, CompletionSpec
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Finished,
    FinishReason,
    Likelihood,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    Tool,
    ToolCall,
)
from appliance.inference.request.route import Route
from appliance.inference.response_cache import ResponseCache
from appliance.services.completions.service import CompletionService
from tests.support.gateway_parts import (
    GREEDY,
    PERMANENT,
    Breaking,
    Scripted,
    answer,
    chat_spec,
    fail_then_answer,
    gateway_over,
    route,
    service_over,
    user,
)

EVENTS: list[CompletionEvent] = [
    TextDelta("é", (TokenLikelihood(Likelihood("é", -0.5, b"\xc3\xa9"), ()),)),
    ToolCall("call_1", "look", '{"a": 1}'),
    Finished(FinishReason.TOOL_CALLS, TokenUsage(3, 2, 1)),
]


def cache(**more: Any) -> ResponseCache:
    bounds: dict[str, Any] = {"max_entries": 3, "max_bytes": 10_000, "max_age_s": 10.0}
    return ResponseCache(**(bounds | more))


async def test_cache_when_a_deterministic_request_is_repeated_then_it_answers() -> None:
    provider = Scripted("an answer of some length")
    service = service_over(provider)
    first, one = await answer(service, chat_spec(sampling=GREEDY))
    second, two = await answer(service, chat_spec(sampling=GREEDY))
    assert first == second == "an answer of some length"
    assert (one.cache, two.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert (two.usage, two.attempts, two.model) == (one.usage, (), "model")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "spec",
    [
        chat_spec(sampling=Sampling(temperature=0.5)),
        chat_spec(sampling=GREEDY, may_cache=False),
    ],
)
async def test_cache_when_a_request_is_not_deterministic_or_opts_out_then_bypassed(
    spec: CompletionSpec,
) -> None:
    provider = Scripted("hi")
    service = service_over(provider)
    for _ in range(2):
        _, report = await answer(service, spec)
        assert report.cache is CacheStatus.BYPASS
    assert len(provider.requests) == 2


async def test_cache_when_there_is_a_seed_then_kept_by_seed() -> None:
    provider = Scripted(lambda request: f"seed {request.sampling.seed}")
    service = service_over(provider)
    for seed in (1, 2, 1):
        text, report = await answer(service, chat_spec(sampling=Sampling(seed=seed)))
        assert text == f"seed {seed}"
    assert report.cache is CacheStatus.HIT  # pyright: ignore[reportPossiblyUnboundVariable]


async def test_cache_when_the_reader_stops_at_the_last_event_then_the_answer_is_kept() -> None:
    service = service_over(Scripted("an answer"))
    for status in (CacheStatus.MISS, CacheStatus.HIT):
        [completion] = await service.start(user(), chat_spec(sampling=GREEDY))
        async for event in completion:
            if isinstance(event, Finished):
                break
        await completion.aclose()
        assert completion.report.cache is status


@pytest.mark.parametrize(("shared", "status"), [(False, CacheStatus.MISS), (True, CacheStatus.HIT)])
async def test_cache_when_another_user_asks_then_only_a_shared_one_answers(
    shared: bool, status: CacheStatus
) -> None:
    service = service_over(Scripted("hi"), cache=CacheSettings(shared=shared))
    await answer(service, chat_spec(sampling=GREEDY))
    _, report = await answer(service, chat_spec(sampling=GREEDY), user(2))
    assert report.cache is status


async def test_cache_when_it_is_off_then_bypassed() -> None:
    service = service_over(Scripted("hi"), cache=CacheSettings(max_entries=0))
    _, report = await answer(service, chat_spec(sampling=GREEDY))
    assert report.cache is CacheStatus.BYPASS


async def test_cache_when_the_model_file_changes_then_its_answers_are_generated_again() -> None:
    state = ["one"]

    async def fingerprint(_: Route) -> str:
        return state[0]

    gateway = gateway_over(Scripted("hi"), fingerprint=fingerprint)
    service = CompletionService(gateway)
    for sha, status in (("one", "MISS"), ("one", "HIT"), ("two", "MISS")):
        state[0] = sha
        _, report = await answer(service, chat_spec(sampling=GREEDY))
        assert report.cache == status


async def test_cache_when_an_answer_breaks_off_then_it_is_not_kept() -> None:
    breaking = Breaking(1, "one two three")
    service = service_over(breaking)
    for _ in range(2):
        (completion,) = await service.start(user(), chat_spec(sampling=GREEDY))
        events = aiter(completion)
        await anext(events)
        await completion.aclose()
        assert completion.report.cache is CacheStatus.MISS
    assert gateway_entries(service) == 0


async def test_cache_when_another_model_answered_then_kept_under_that_one() -> None:
    one = Scripted(fail_then_answer(1, PERMANENT, "one"), name="one", models=("a",))
    two = Scripted("two", name="two", models=("b",))
    service = service_over(one, two, routes=route("a", "b"))
    assert (await answer(service, chat_spec(model="smart", sampling=GREEDY)))[0] == "two"
    text, report = await answer(service, chat_spec(model="b", sampling=GREEDY))
    assert (text, report.cache) == ("two", CacheStatus.HIT)
    text, report = await answer(service, chat_spec(model="smart", sampling=GREEDY))
    assert (text, report.cache) == ("one", CacheStatus.MISS)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"sampling": Sampling(temperature=0.0, top_k=1)},
        {"max_tokens": 9},
        {"owner": "user:2"},
        {"tools": (Tool("look"),)},
        {"output": OutputFormat(OutputKind.JSON)},
        {"raw": RawPrompt("x")},
        {"context_shift": True},
        {"messages": chat_spec("hello!").messages},
    ],
)
def test_key_when_anything_differs_then_it_is_another(change: dict[str, Any]) -> None:
    base = CompletionRequest("m", chat_spec().messages, GREEDY, 8, owner="user:1")
    kept = cache()
    assert kept.key("p", "", base) == kept.key("p", "", replace(base))
    assert kept.key("p", "", base) != kept.key("p", "", replace(base, **change))
    assert kept.key("p", "", base) != kept.key("q", "", base)
    assert kept.key("p", "", base) != kept.key("p", "sha", base)


def test_events_when_they_come_back_then_likelihoods_and_tool_calls_are_the_same() -> None:
    kept = cache()
    kept.put(b"k", EVENTS)
    assert list(kept.get(b"k") or ()) == EVENTS


def test_entries_when_there_are_too_many_then_the_least_recently_used_goes() -> None:
    kept = cache()
    for key in (b"a", b"b", b"c"):
        kept.put(key, EVENTS)
    kept.get(b"a")
    kept.put(b"d", EVENTS)
    assert [kept.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert (kept.stats().entries, kept.stats().evictions) == (3, 1)


def test_size_when_answers_are_large_then_bytes_are_bounded_and_huge_ones_not_kept() -> None:
    kept = cache(max_entries=100, max_bytes=4000)
    kept.put(b"huge", [TextDelta("x" * 2000)])
    assert kept.get(b"huge") is None
    for number in range(20):
        kept.put(bytes([number]), [TextDelta("x" * 900)])
    stats = kept.stats()
    assert stats.bytes <= 4000
    assert stats.entries == 4
    kept.put(bytes([19]), [TextDelta("y")])
    assert kept.stats().bytes < stats.bytes


def test_age_when_it_is_over_then_the_answer_is_gone() -> None:
    now = [0.0]
    kept = cache(clock=lambda: now[0])
    kept.put(b"a", EVENTS)
    now[0] = 9.9
    assert kept.get(b"a") is not None
    now[0] = 10.0
    assert kept.get(b"a") is None
    stats = kept.stats()
    assert (stats.hits, stats.misses, stats.expired, stats.bytes) == (1, 1, 1, 0)
    assert stats.hit_rate == 0.5


def test_stats_when_nothing_was_looked_up_then_the_rate_is_zero() -> None:
    assert cache().stats().hit_rate == 0


def gateway_entries(service: CompletionService) -> int:
    return service._gateway.cache_stats().entries  # pyright: ignore[reportPrivateUsage]
