"""The local provider with a tiny model: what the SPI promises."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Finished,
    FinishReason,
    Message,
    MessageRole,
    Sampling,
    TextDelta,
)
from appliance.domain.models import ModelState
from appliance.errors import (
    ContextLengthExceeded,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
    UnknownModel,
)
from appliance.spi.registry import Registry
from plugins.providers.llama_cpp import register
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import GREEDY, complete, provider_for, request, until_gone
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTEXT = 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("llama")
    tiny = write_tiny_gguf(folder / "tiny.gguf", context_tokens=CONTEXT)
    made, _ = provider_for(folder, {"tiny": tiny}, threads=1)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(tmp_path: Path) -> AsyncIterator[LlamaCppProvider]:
    """One running request, one waiting, and answers that take longer than any test."""
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", context_tokens=32768)
    made, _ = provider_for(tmp_path, {"tiny": tiny}, threads=1, max_sequences=1, queue_limit=1)
    yield made
    await made.close()


def _endless(text: str = "x") -> CompletionRequest:
    return request(text, max_tokens=32000)


async def _first(stream: AsyncIterator[CompletionEvent]) -> CompletionEvent:
    return await anext(stream)


async def test_plugin_when_registered_then_offers_provider_by_name():
    registry = Registry()
    register(registry)
    assert list(registry.providers) == ["llama_cpp"]


async def test_stream_when_limit_is_reached_then_length_and_exact_usage(
    provider: LlamaCppProvider,
):
    text, finished = await complete(provider, request("hello", max_tokens=20))
    assert text
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.completion_tokens == 20
    assert finished.usage.prompt_tokens == await provider.count_tokens(request("hello"))
    assert finished.usage.cached_tokens == 0


async def test_stream_when_seed_is_same_then_answer_is_same(provider: LlamaCppProvider):
    drawn = [Sampling(temperature=1.0, seed=seed) for seed in (5, 5, 6)]
    texts = [(await complete(provider, request("hi", sampling=each)))[0] for each in drawn]
    assert texts[0] == texts[1] != texts[2]


async def test_stream_when_seed_is_none_then_answers_differ(provider: LlamaCppProvider):
    request_ = request("hi", sampling=Sampling(temperature=1.5, top_k=0), max_tokens=30)
    texts = {(await complete(provider, request_))[0] for _ in range(3)}
    assert len(texts) == 3


async def test_stream_when_key_is_shared_then_prompt_is_computed_once(
    provider: LlamaCppProvider,
):
    request_ = request("a long prompt " * 50, owner="candidates")
    answers = await asyncio.gather(*(complete(provider, request_) for _ in range(8)))
    prompt = answers[0][1].usage.prompt_tokens
    cached = sorted(finished.usage.cached_tokens for _, finished in answers)
    assert cached == [0, *[prompt - 1] * 7]


async def test_stream_when_prompts_begin_alike_then_beginning_is_shared(
    provider: LlamaCppProvider,
):
    common = "the same beginning " * 20
    request_ = [request(common + end, owner="plans") for end in ("one", "two", "two")]
    answers = [await complete(provider, each) for each in request_]
    cached = [finished.usage.cached_tokens for _, finished in answers]
    assert cached[0] == 0
    assert len(common) < cached[1] < cached[2] == answers[2][1].usage.prompt_tokens - 1


async def test_stream_when_sixteen_candidates_meet_eight_places_then_all_finish(
    provider: LlamaCppProvider,
):
    request_ = [
        request("pick one", sampling=Sampling(seed=seed), owner="many") for seed in range(16)
    ]
    answers = await asyncio.gather(*(complete(provider, each) for each in request_))
    assert all(finished.usage.completion_tokens == 8 for _, finished in answers)
    assert sum(finished.usage.cached_tokens == 0 for _, finished in answers) == 1


async def test_stream_when_stop_string_comes_then_cut_before_it(provider: LlamaCppProvider):
    whole, _ = await complete(provider, request("hello", max_tokens=40))
    stop = whole[4:6]
    sampling = Sampling(temperature=0.0, stop=(stop,))
    text, finished = await complete(provider, request("hello", sampling=sampling, max_tokens=40))
    assert text == whole[: whole.index(stop)]
    assert finished.reason is FinishReason.STOP
    assert finished.usage.completion_tokens < 40


async def test_stream_when_prompt_and_answer_just_fit_then_runs(provider: LlamaCppProvider):
    prompt = await provider.count_tokens(request("x"))
    _, finished = await complete(provider, request("x", max_tokens=CONTEXT - prompt))
    assert finished.usage.total_tokens == CONTEXT


@pytest.mark.parametrize("max_tokens", [CONTEXT, 64_000])
async def test_stream_when_the_requested_length_exceeds_the_room_then_it_is_a_cap(
    provider: LlamaCppProvider, max_tokens: int
):
    """F10: only a prompt that doesn't fit is refused."""
    _, finished = await complete(provider, request("x", max_tokens=max_tokens))
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.total_tokens == CONTEXT


async def test_stream_when_the_prompt_fills_the_context_then_refused_with_the_numbers(
    provider: LlamaCppProvider,
):
    others = await provider.count_tokens(request("x")) - 1
    with pytest.raises(ContextLengthExceeded) as caught:
        await complete(provider, request("x" * (CONTEXT - others), max_tokens=5))
    assert caught.value.details == {
        "prompt_tokens": CONTEXT,
        "max_tokens": 5,
        "context_tokens": CONTEXT,
    }


async def test_stream_when_prompt_is_huge_then_refused_and_others_go_on(
    provider: LlamaCppProvider,
):
    huge, small = await asyncio.gather(
        complete(provider, request("y" * 300_000)),
        complete(provider, request("small")),
        return_exceptions=True,
    )
    assert isinstance(huge, ContextLengthExceeded)
    assert huge.details["prompt_tokens"] > CONTEXT  # a lower bound, by its bytes
    assert not isinstance(small, BaseException)


async def test_stream_when_no_limit_is_given_then_writes_until_the_context_is_full(
    provider: LlamaCppProvider,
):
    _, finished = await complete(provider, request("x", max_tokens=None))
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.total_tokens == CONTEXT


async def test_stream_when_model_is_unknown_then_says_which_there_are(
    provider: LlamaCppProvider,
):
    with pytest.raises(UnknownModel, match="tiny"):
        await complete(provider, request("x", model="nothing"))


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(temperature=-1), "temperature"),
        (Sampling(top_p=1.5), "top_p"),
        (Sampling(top_k=-1), "top_k"),
        (Sampling(min_p=-0.1), "min_p"),
        (Sampling(repeat_penalty=0), "repeat_penalty"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=("a",) * 100), "stop"),
        (Sampling(seed=2**80), "seed"),
    ],
)
async def test_stream_when_sampling_is_senseless_then_names_the_field(
    provider: LlamaCppProvider, sampling: Sampling, field: str
):
    with pytest.raises(InvalidInput) as caught:
        await complete(provider, request("x", sampling=sampling))
    assert caught.value.details["field"] == field


async def test_stream_when_text_is_half_a_surrogate_then_refused(provider: LlamaCppProvider):
    with pytest.raises(InvalidInput, match="Unicode"):
        await complete(provider, request("\ud800"))


async def test_stream_when_there_are_no_messages_or_no_room_then_refused(
    provider: LlamaCppProvider,
):
    for wrong in (CompletionRequest("tiny", ()), request("x", max_tokens=0)):
        with pytest.raises(InvalidInput):
            await complete(provider, wrong)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.8, top_k=0, top_p=1, min_p=0, seed=-5),
        Sampling(temperature=2, repeat_penalty=1.3, seed=2**63 - 1),
        Sampling(temperature=0, repeat_penalty=1.1),
        Sampling(temperature=1e-6, top_k=1),
    ],
)
async def test_stream_when_sampling_is_extreme_then_still_answers(
    provider: LlamaCppProvider, sampling: Sampling
):
    _, finished = await complete(provider, request("x", sampling=sampling))
    assert finished.usage.completion_tokens == 8


@pytest.mark.parametrize("text", ["", "\x00", "🐒" * 40, "</s>" * 3])
async def test_stream_when_text_is_odd_then_still_answers(provider: LlamaCppProvider, text: str):
    _, finished = await complete(provider, request(text))
    assert finished.usage.completion_tokens == 8


async def test_prompt_when_user_writes_special_tokens_then_they_are_plain_text(
    provider: LlamaCppProvider,
):
    empty = await provider.count_tokens(request("ab"))
    assert await provider.count_tokens(request("a<|im_end|>b")) == empty + len("<|im_end|>")


async def test_prompt_when_conversation_is_long_then_every_message_counts(
    provider: LlamaCppProvider,
):
    messages = (
        Message(MessageRole.SYSTEM, "s"),
        Message(MessageRole.USER, "u"),
        Message(MessageRole.ASSISTANT, "a"),
        Message(MessageRole.USER, "v"),
    )
    count = await provider.count_tokens(CompletionRequest("tiny", messages, GREEDY))
    assert count > await provider.count_tokens(request("v"))


async def test_stream_when_reader_is_slow_then_others_are_not_held_up(
    provider: LlamaCppProvider,
):
    async with aclosing(provider.stream(request("slow", max_tokens=300))) as slow:
        first = await anext(slow)
        others = [complete(provider, request(f"fast {at}", max_tokens=100)) for at in range(4)]
        await asyncio.gather(*others)
        rest = [event async for event in slow]
    assert isinstance(first, TextDelta)
    assert isinstance(rest[-1], Finished)
    assert rest[-1].usage.completion_tokens == 300


async def test_models_when_loaded_then_ready_with_measured_speed(provider: LlamaCppProvider):
    await complete(provider, request("measure", max_tokens=40))
    (info,) = await provider.models()
    assert (info.state, info.context_tokens) == (ModelState.READY, CONTEXT)
    assert info.decode_tokens_per_second is not None
    assert info.decode_tokens_per_second > 0


async def test_load_when_called_at_once_then_one_engine_serves_all(provider: LlamaCppProvider):
    await provider.unload("tiny")
    assert [info.state for info in await provider.models()] == [ModelState.UNLOADED]
    await asyncio.gather(*(provider.load("tiny") for _ in range(5)))
    pid = provider.engine_pid("tiny")
    assert pid is not None
    await provider.unload("tiny")
    await until_gone(pid)


async def test_cancel_when_stream_is_closed_then_its_place_is_free_at_once(
    narrow: LlamaCppProvider,
):
    stream = narrow.stream(_endless())
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(30):
        await complete(narrow, request("next"))


async def test_cancel_when_reading_task_is_cancelled_then_its_place_is_free_at_once(
    narrow: LlamaCppProvider,
):
    await narrow.load("tiny")
    tasks = [asyncio.create_task(complete(narrow, _endless(str(at)))) for at in range(3)]
    # One of them is refused, once one runs and one waits.
    (refused,), open_tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(refused.exception(), QueueFull)
    for task in open_tasks:
        task.cancel()
    await asyncio.wait(open_tasks)
    async with asyncio.timeout(30):
        await complete(narrow, request("next"))


async def test_queue_when_full_then_refused_with_its_length(narrow: LlamaCppProvider):
    await narrow.load("tiny")
    streams = [narrow.stream(_endless(str(at))) for at in range(3)]
    reading = [asyncio.create_task(_first(stream)) for stream in streams]
    done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_EXCEPTION)
    errors = [task.exception() for task in done if task.exception()]
    assert [type(error) for error in errors] == [QueueFull]
    assert isinstance(errors[0], QueueFull)
    assert errors[0].details == {"queue_length": 1, "queue_limit": 1}
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    for stream in streams:
        await stream.aclose()


async def test_close_when_engine_runs_then_no_child_is_left(tmp_path: Path):
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    made, _ = provider_for(tmp_path, {"tiny": tiny})
    await made.load("tiny")
    pid = made.engine_pid("tiny")
    assert pid is not None
    await made.close()
    await until_gone(pid)
    assert not list((tmp_path / "run").iterdir())
    assert not made.status().available
    with pytest.raises(ModelUnavailable):
        await made.load("tiny")
