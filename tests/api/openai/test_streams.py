"""Streams of the OpenAI dialect: order, merging, usage, failures, heartbeats."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.api.openai import chat_routes
from appliance.api.streaming.completion_stream import CompletionStream, open_stream
from appliance.domain.messages import (
    Finished,
    FinishReason,
    Likelihood,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)
from appliance.errors import ProviderFailed, UnknownModel
from tests.api.application import settings_with
from tests.api.openai_application import OpenAiApi, open_openai

CHAT: dict[str, Any] = {
    "model": "starter",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
}
CHATS, PLAIN = "/v1/chat/completions", "/v1/completions"
STOPPED = Finished(FinishReason.STOP, TokenUsage(20, 2, 12))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[OpenAiApi]:
    async with open_openai(tmp_path, settings_with()) as opened:
        yield opened


@pytest.fixture
async def client(api: OpenAiApi) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as opened:
        yield opened


def events(text: str) -> list[Any]:
    """The JSON of each event; the text of one that has none."""
    assert text.endswith("\n\n")
    lines = [line for line in text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line[6:] == "[DONE]" else json.loads(line[6:]) for line in lines]


def choices(sent: list[Any]) -> list[Any]:
    return [event["choices"][0] for event in sent if event != "[DONE]" and event.get("choices")]


async def test_stream_when_asked_then_role_pieces_end_and_done(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    answer = await client.post(CHATS, json=CHAT)
    sent = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-cache-status"] == "MISS"
    assert answer.headers["x-provider-used"] == "llama_cpp"
    assert sent[-1] == "[DONE]"
    assert {event["id"] for event in sent[:-1]} == {sent[0]["id"]}
    assert [each["delta"] for each in choices(sent)] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [each["finish_reason"] for each in choices(sent)] == [None, None, None, "stop"]
    assert all("usage" not in event for event in sent[:-1])
    assert api.service.started[0].closed.is_set()


async def test_stream_when_usage_is_requested_then_null_until_the_last_chunk(
    client: httpx.AsyncClient,
) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    answer = await client.post(CHATS, json=CHAT | {"stream_options": options})
    sent = events(answer.text)
    assert [event["usage"] for event in sent[:-2]] == [None] * 4
    assert sent[-2]["choices"] == []
    assert sent[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 12
    assert sent[-2]["usage"]["total_tokens"] == 25


async def test_stream_when_several_choices_then_merged_as_they_come(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.scripts = [
        (TextDelta("a"), TextDelta("b"), STOPPED),
        (TextDelta("c"), STOPPED),
    ]
    body = CHAT | {"n": 2, "stream_options": {"include_usage": True}}
    sent = events((await client.post(CHATS, json=body)).text)
    texts = {0: "", 1: ""}
    for choice in choices(sent):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "ab", 1: "c"}
    assert sent[-2]["usage"]["prompt_tokens"] == 20
    assert sent[-2]["usage"]["completion_tokens"] == 4
    assert sent[-1] == "[DONE]"
    assert all(each.closed.is_set() for each in api.service.started)


@pytest.mark.parametrize("n", [1, 2])
async def test_stream_when_it_fails_on_the_way_then_an_error_and_no_done(
    n: int, api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.scripts = [(TextDelta("a"), ProviderFailed("the engine died")), (None,)]
    answer = await client.post(CHATS, json=CHAT | {"n": n})
    sent = events(answer.text)
    assert answer.status_code == 200
    assert sent[-1]["error"]["message"] == "the engine died"
    assert sent[-1]["error"]["code"] == "provider_error"
    assert sent[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in sent
    assert all(each.closed.is_set() for each in api.service.started)


async def test_stream_when_something_breaks_then_the_reason_stays_here(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.steps = (TextDelta("a"), RuntimeError("SELECT secret"))
    answer = await client.post(CHATS, json=CHAT)
    assert events(answer.text)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in answer.text


async def test_stream_when_tools_and_likelihoods_then_each_in_its_chunk(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    drawn = Likelihood("a", -0.25, b"a")
    api.service.steps = (
        TextDelta("a", (TokenLikelihood(drawn, (drawn,)),)),
        ToolCall("call_1", "f", '{"x": 1}'),
        ToolCall("call_2", "f", "{}"),
        Finished(FinishReason.TOOL_CALLS, TokenUsage(1, 1)),
    )
    body = CHAT | {"logprobs": True, "tools": [{"type": "function", "function": {"name": "f"}}]}
    sent = choices(events((await client.post(CHATS, json=body)).text))
    assert sent[1]["logprobs"]["content"][0]["token"] == "a"
    calls = [each["delta"]["tool_calls"][0] for each in sent if "tool_calls" in each["delta"]]
    assert [(call["index"], call["id"]) for call in calls] == [(0, "call_1"), (1, "call_2")]
    assert sent[-1]["finish_reason"] == "tool_calls"


async def test_stream_when_plain_then_text_completion_objects(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    body = {"model": "starter", "prompt": ["x", "y"], "stream": True, "echo": True}
    sent = events((await client.post(PLAIN, json=body)).text)
    texts = {0: "", 1: ""}
    for choice in choices(sent):
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "xHello", 1: "yHello"}
    assert sent[0]["object"] == "text_completion"
    assert sent[-1] == "[DONE]"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats each 10 ms."""

    async def soon(*given: Any) -> CompletionStream:
        return await open_stream(*given, heartbeat_s=0.01)

    monkeypatch.setattr(chat_routes, "open_stream", soon)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fails", [False, True])
async def test_stream_when_the_first_token_is_late_then_heartbeats_before_it(
    fails: bool, api: OpenAiApi, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.service.may_start.clear()
    start = api.service.start

    async def late(*given: Any) -> Any:
        begun = await start(*given)
        if fails:
            raise UnknownModel("there is none")
        return begun

    monkeypatch.setattr(api.service, "start", late)
    asyncio.get_running_loop().call_later(0.2, api.service.may_start.set)
    answer = await client.post(CHATS, json=CHAT)
    assert answer.status_code == 200
    assert answer.text.startswith(": heartbeat\n\n")
    last = events(answer.text)[-1]
    if fails:
        assert last["error"]["code"] == "model_not_found"
    else:
        assert last == "[DONE]"


async def test_stream_when_text_comes_in_many_pieces_then_none_is_lost(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    pieces = [f"{number} " for number in range(500)]
    api.service.steps = (*map(TextDelta, pieces), STOPPED)
    sent = choices(events((await client.post(CHATS, json=CHAT | {"n": 3})).text))
    for index in range(3):
        mine = [each["delta"].get("content", "") for each in sent if each["index"] == index]
        assert "".join(mine) == "".join(pieces)
