"""CompletionService: permissions, choices, closing early."""

import asyncio

import pytest

from appliance.config.settings import GatewaySettings
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Finished,
    RawPrompt,
    Sampling,
    TextDelta,
)
from appliance.domain.users import Role, Scope
from appliance.errors import Forbidden, InvalidInput, ProviderFailed, QueueFull, UnknownModel
from appliance.services.accounts.permissions import scopes_of_key
from appliance.services.completions.service import MAX_CHOICES, CompletionService
from tests.support.gateway_parts import (
    PERMANENT,
    Breaking,
    Scripted,
    answer,
    chat_spec,
    fail_then_answer,
    gateway_over,
    read_all,
    service_over,
    user,
)
from tests.support.polling import until


@pytest.mark.parametrize("scope", [Scope.ALL, Scope.CHAT, Scope.TASKS_WRITE])
async def test_start_when_a_key_may_chat_then_it_does(scope: Scope) -> None:
    text, _ = await answer(service_over(Scripted("hi")), principal=user(1, scope.value))
    assert text == "hi"


async def test_start_when_a_key_may_not_chat_then_forbidden() -> None:
    service = service_over(Scripted("hi"))
    viewer = user(1, *scopes_of_key(Role.VIEWER, ["*"]))
    for who in (viewer, user(1, Scope.TASKS_READ.value, Scope.KEYS.value)):
        with pytest.raises(Forbidden, match="'chat'"):
            await service.start(who, chat_spec())
        with pytest.raises(Forbidden):
            await service.count_tokens(who, chat_spec())
        with pytest.raises(Forbidden):
            await service.embed(who, EmbeddingRequest("model", ("text",)))


@pytest.mark.parametrize(
    ("wrong", "choices", "field"),
    [
        (CompletionSpec(None), 1, "messages"),
        (chat_spec(raw=RawPrompt("x")), 1, "prompt"),
        (chat_spec(max_tokens=0), 1, "max_tokens"),
        (chat_spec(), 0, "n"),
        (chat_spec(), MAX_CHOICES + 1, "n"),
    ],
)
async def test_start_when_the_spec_is_invalid_then_the_field_is_named(
    wrong: CompletionSpec, choices: int, field: str
) -> None:
    provider = Scripted("hi")
    with pytest.raises(InvalidInput) as caught:
        await service_over(provider).start(user(), wrong, choices)
    assert caught.value.details["field"] == field
    assert provider.requests == []


async def test_start_when_the_model_is_unknown_then_the_error_lists_models() -> None:
    with pytest.raises(UnknownModel, match="near/model"):
        await service_over(Scripted("hi")).start(user(), chat_spec(model="nope"))


async def test_start_when_it_fails_before_the_first_event_then_the_call_fails() -> None:
    with pytest.raises(ProviderFailed):
        await service_over(Scripted(PERMANENT)).start(user(), chat_spec())


async def test_start_when_several_choices_then_each_has_a_seed_of_its_own() -> None:
    provider = Scripted(lambda request: f"seed {request.sampling.seed}")
    asked = chat_spec(sampling=Sampling(seed=2**32 - 2), may_cache=False)
    choices = await service_over(provider).start(user(), asked, 3)
    texts = [(await read_all(choice))[0] for choice in choices]
    assert texts == [f"seed {2**32 - 2}", f"seed {2**32 - 1}", "seed 0"]
    choices = await service_over(provider).start(user(), chat_spec(), 2)
    assert [(await read_all(choice))[0] for choice in choices] == ["seed None"] * 2


async def test_start_when_choices_exceed_max_parallel_then_they_are_queued() -> None:
    provider = Scripted("a longer answer than one piece", max_parallel=2)
    gateway = gateway_over(provider)
    choices = await CompletionService(gateway).start(user(), chat_spec(), 7)
    for choice in reversed(choices):
        text, events, report = await read_all(choice)
        assert text == "a longer answer than one piece"
        assert isinstance(events[-1], Finished)
        assert report.usage.completion_tokens == 6
    assert gateway.queue_load() == (0, 0)


async def test_start_when_one_choice_fails_at_once_then_all_end_and_the_call_fails() -> None:
    answers = iter(["fine", PERMANENT, "fine"])
    provider = Scripted(lambda _: next(answers))
    gateway = gateway_over(provider)
    with pytest.raises(ProviderFailed):
        await CompletionService(gateway).start(user(), chat_spec(), 3)
    assert provider.ended == len(provider.requests)
    assert gateway.queue_load() == (0, 0)


@pytest.mark.parametrize("choices", [1, 4])
async def test_start_when_it_is_cancelled_then_nothing_runs_on(choices: int) -> None:
    provider = Scripted(asyncio.Event())
    gateway = gateway_over(provider)
    starting = asyncio.create_task(CompletionService(gateway).start(user(), chat_spec(), choices))
    await until(lambda: len(provider.requests) == choices)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert provider.ended == choices
    assert gateway.queue_load() == (0, 0)


@pytest.mark.parametrize("choices", [1, 2])
async def test_close_when_early_then_the_provider_stops_and_what_was_used_is_counted(
    choices: int,
) -> None:
    provider = Scripted("one two three four five six seven eight")
    gateway = gateway_over(provider)
    started = await CompletionService(gateway).start(user(), chat_spec(), choices)
    for completion in started:
        assert completion.report.usage.prompt_tokens > 0  # estimated until the provider counts
        async for event in completion:
            assert isinstance(event, TextDelta)
            break
        await completion.aclose()
        await completion.aclose()
    assert provider.ended == choices
    assert gateway.queue_load() == (0, 0)
    assert all(completion.report.usage.prompt_tokens > 0 for completion in started)


async def test_close_when_never_read_then_the_queue_is_free_again() -> None:
    provider = Scripted("one two three")
    gateway = gateway_over(provider)
    (completion,) = await CompletionService(gateway).start(user(), chat_spec())
    assert gateway.queue_load() == (1, 0)
    await completion.aclose()
    assert gateway.queue_load() == (0, 0)
    assert provider.ended == 1


@pytest.mark.parametrize("choices", [1, 2])
async def test_stream_when_it_fails_midway_then_the_reader_gets_the_error(choices: int) -> None:
    gateway = gateway_over(Breaking(2, "one two three four five six"))
    for completion in await CompletionService(gateway).start(user(), chat_spec(), choices):
        events = aiter(completion)
        assert await anext(events) == TextDelta("one two")
        assert await anext(events) == TextDelta(" three ")
        with pytest.raises(ProviderFailed):
            await anext(events)
        await completion.aclose()
    assert gateway.queue_load() == (0, 0)


async def test_start_when_the_queue_is_full_then_rejected_with_its_place() -> None:
    go = asyncio.Event()
    gateway = gateway_over(Scripted(go, max_parallel=1), gateway=GatewaySettings(queue_limit=1))
    service = CompletionService(gateway)
    first = asyncio.create_task(service.start(user(), chat_spec()))
    await until(lambda: gateway.queue_load() == (1, 0))
    second = asyncio.create_task(service.start(user(), chat_spec()))
    await until(lambda: gateway.queue_load() == (1, 1))
    with pytest.raises(QueueFull) as caught:
        await service.start(user(2), chat_spec())
    assert caught.value.details["place"] == 2
    go.set()
    for task in (first, second):
        for completion in await task:
            await read_all(completion)
    assert gateway.queue_load() == (0, 0)


async def test_request_when_it_reaches_the_provider_then_all_of_the_spec_is_in_it() -> None:
    provider = Scripted("hi")
    asked = chat_spec(
        "hello", sampling=Sampling(top_k=3, seed=9), max_tokens=5, context_shift=True, model="model"
    )
    await answer(service_over(provider), asked)
    assert provider.requests == [
        CompletionRequest(
            model="model",
            messages=asked.messages,
            sampling=asked.sampling,
            max_tokens=5,
            owner="user:1",
            context_shift=True,
        )
    ]


async def test_count_tokens_when_asked_then_the_provider_counts() -> None:
    assert await service_over(Scripted("x")).count_tokens(user(), chat_spec("two words")) == 6


async def test_embed_when_the_model_makes_none_then_it_is_the_callers_error() -> None:
    service = service_over(Scripted("x"))
    with pytest.raises(InvalidInput, match="embeddings"):
        await service.embed(user(), EmbeddingRequest("model", ("text",)))
    with pytest.raises(InvalidInput, match="input"):
        await service.embed(user(), EmbeddingRequest("model", ()))


async def test_retry_when_many_run_at_once_then_each_is_served() -> None:
    provider = Scripted(fail_then_answer(20, PERMANENT, "hi"), local=True)
    gateway = gateway_over(provider, gateway=GatewaySettings(breaker_failures=1000))
    service = CompletionService(gateway)
    done = await asyncio.gather(*(answer(service) for _ in range(60)), return_exceptions=True)
    assert sum(isinstance(each, ProviderFailed) for each in done) == 20
    assert gateway.queue_load() == (0, 0)
