"""Requests that can't be sent, or that nobody reads any more, leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.domain.messages import CompletionRequest, Message, MessageRole, Tool
from appliance.errors import InvalidInput, QueueFull
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.supervision import validation
from plugins.providers.llama_cpp.supervision.completion_connection import CompletionConnection
from tests.support.llama_provider import complete, provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf

_TOO_LARGE = 2**64


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[LlamaCppProvider]:
    made, _ = provider_for(tmp_path, {"tiny": write_tiny_gguf(tmp_path / "t.gguf")}, threads=1)
    yield made
    await made.close()


async def _connection(provider: LlamaCppProvider) -> CompletionConnection:
    slot = await provider.pool.get_slot("tiny")
    return await slot.completion_supervisor().connect()


async def test_request_when_it_has_no_encoding_then_its_own_error_and_nothing_is_open(
    provider: LlamaCppProvider,
):
    """F60: also if the validation should overlook a value, the engine is not waited for."""
    connection = await _connection(provider)
    tool = Tool("f", "", {"minimum": _TOO_LARGE})
    with pytest.raises(InvalidInput, match="can't be processed"):
        async with connection.completion(_with_tool(tool)):
            pass
    assert connection.silence_s == 0.0
    await complete(provider, request("x"))


async def test_count_when_nobody_waits_any_more_then_nothing_is_open(provider: LlamaCppProvider):
    connection = await _connection(provider)
    counting = asyncio.create_task(provider.count_tokens(request("word " * 20_000)))
    await asyncio.sleep(0)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert connection.silence_s == 0.0


async def test_counts_when_an_owner_has_many_open_then_only_theirs_are_refused(
    provider: LlamaCppProvider,
):
    """F62: the queue of prompts to be counted is bounded for each owner and together."""
    await provider.load("tiny")
    text = "word " * 100
    counts = [provider.count_tokens(request(text, owner="a")) for _ in range(20)]
    others = provider.count_tokens(request(text, owner="b"))
    *first, last = await asyncio.gather(*counts, others, return_exceptions=True)
    assert isinstance(last, int)
    assert sum(isinstance(each, QueueFull) for each in first) == 12


@pytest.mark.parametrize("value", [_TOO_LARGE, -(2**63) - 1])
async def test_integer_when_it_exceeds_64_bits_then_refused_by_place(
    provider: LlamaCppProvider, value: int
):
    """F60: and five of them don't keep others from the engine."""
    tool = Tool("f", "", {"properties": {"a": {"enum": [1, {"b": value}]}}})
    for _ in range(5):
        with pytest.raises(InvalidInput) as caught:
            await complete(provider, _with_tool(tool))
        place = "tools[0].parameters.properties.a.enum[1].b"
        assert caught.value.message.startswith(f"{place}: ")
    await complete(provider, request("x"))


def test_json_when_it_has_too_many_values_then_refused_with_the_bound():
    tool = Tool("f", "", {"enum": list(range(100_001))})
    with pytest.raises(InvalidInput, match="at most 100000 values"):
        validation.validate_completion(_with_tool(tool))


def _with_tool(tool: Tool) -> CompletionRequest:
    user = Message(MessageRole.USER, "x")
    return CompletionRequest("tiny", (user,), tools=(tool,))
