"""The usage of completions that were cancelled: counted by the engine, recorded as exact."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.messages import CompletionEvent, CompletionRequest, TextDelta, TokenUsage
from appliance.domain.usage import UsageStatus
from appliance.errors import ProviderFailed
from appliance.services.completions.service import CompletionService
from appliance.store.sqlite.database import Database
from appliance.store.tables import usage_records
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.gateway_parts import chat_spec, gateway_over, user
from tests.support.llama_provider import provider_for, record_submissions, request
from tests.support.polling import until
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.asyncio(loop_scope="module")
_LONG = "a long text that is to be read. " * 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("cancelled")
    tiny = write_tiny_gguf(folder / "tiny.gguf", context_tokens=32768)
    made, _ = provider_for(folder, {"tiny": tiny}, threads=1, context_tokens=32768, max_sequences=2)
    await made.load("tiny")
    yield made
    await made.close()


def _endless(text: str = "hello") -> CompletionRequest:
    return request(text, max_tokens=8_000)


async def test_usage_when_a_reader_leaves_then_every_token_that_was_drawn(
    provider: LlamaCppProvider,
):
    request_ = _endless()
    stream = provider.stream(request_)
    read = [await anext(stream) for _ in range(5)]
    assert stream.usage is None
    await stream.aclose()
    assert stream.usage is not None
    assert stream.usage.prompt_tokens == await provider.count_tokens(request_)
    assert stream.usage.completion_tokens >= len(read)


async def test_usage_when_the_reading_task_is_cancelled_then_known_as_well(
    provider: LlamaCppProvider,
):
    stream = provider.stream(_endless())
    started = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            started.set()

    reading = asyncio.create_task(read())
    await started.wait()
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    assert stream.usage is not None
    assert stream.usage.completion_tokens > 0


async def test_usage_when_it_waited_for_others_then_nothing_was_used(
    provider: LlamaCppProvider, monkeypatch: pytest.MonkeyPatch
):
    writing = [provider.stream(_endless(str(at))) for at in range(2)]
    for stream in writing:
        await anext(stream)
    submitted = record_submissions(monkeypatch)
    waiting = provider.stream(_endless("waits"))
    reading = asyncio.create_task(anext(waiting))
    await until(lambda: submitted)
    reading.cancel()
    await asyncio.wait({reading})
    assert waiting.usage in {None, TokenUsage()}
    for stream in writing:
        await stream.aclose()


async def test_usage_when_ended_while_the_prompt_is_read_then_only_what_was_read(
    provider: LlamaCppProvider,
):
    request_ = _endless(_LONG)
    whole = await provider.count_tokens(request_)
    stream = provider.stream(request_)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.05)  # any moment will do: the engine reads the prompt, or writes
    reading.cancel()
    await asyncio.wait({reading})
    assert stream.usage is not None
    assert 0 <= stream.usage.prompt_tokens <= whole
    assert not stream.usage.completion_tokens or stream.usage.prompt_tokens == whole


async def test_usage_when_many_are_cancelled_at_once_then_each_has_its_own(
    provider: LlamaCppProvider,
):
    streams = [provider.stream(_endless("x" * at)) for at in (1, 30)]
    for stream in streams:
        await anext(stream)
    await asyncio.gather(*(stream.aclose() for stream in streams))
    prompt_tokens = [stream.usage.prompt_tokens for stream in streams if stream.usage]
    assert prompt_tokens[1] - prompt_tokens[0] == 29


async def test_usage_when_the_engine_dies_then_unknown(provider: LlamaCppProvider):
    stream = provider.stream(_endless())
    await anext(stream)
    pid = provider.engine_pid("tiny")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderFailed):
        await _to_the_end(stream)
    assert stream.usage is None


async def test_record_when_a_client_leaves_then_exact_and_an_estimate_where_the_engine_died(
    tmp_path: Path,
):
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", context_tokens=32768)
    own, _ = provider_for(tmp_path, {"tiny": tiny}, threads=1, context_tokens=32768)
    db = await Database.open(tmp_path / "data.db")
    gateway = gateway_over(own, db=db)
    await gateway.start()
    request_ = chat_spec(max_tokens=8_000, model="llama_cpp/tiny")
    prompts = list[int]()
    for dies in (False, True):
        (completion,) = await CompletionService(gateway).start(user(), request_)
        prompts.append(completion.report.usage.prompt_tokens)
        events = aiter(completion)
        assert isinstance(await anext(events), TextDelta)
        if dies:
            os.kill(own.engine_pid("tiny") or 0, signal.SIGKILL)
            with pytest.raises(ProviderFailed):
                await _to_the_end(events)
        await completion.aclose()
        assert completion.report.usage.completion_tokens > 0
    prompt = await own.count_tokens(_endless("hello"))
    assert prompts == [prompt, prompt]
    await gateway.close()
    async with db.read() as connection:
        records = await usage_records.list_for_user(connection, 1, 0.0, 10)
    await db.close()
    left, died = sorted(records, key=lambda record: record.started_at)
    assert (left.status, left.exact, left.prompt_tokens) == (UsageStatus.CANCELLED, True, prompt)
    assert (died.status, died.exact) == (UsageStatus.FAILED, False)


async def _to_the_end(events: AsyncIterator[CompletionEvent]) -> None:
    async for _ in events:
        pass
