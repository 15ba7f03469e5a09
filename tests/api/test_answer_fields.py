"""Answers hold the fields of the official clients' models, and null only where the reference has
it: strict clients refuse the rest (F43)."""

import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
from pydantic import BaseModel, TypeAdapter

from tests.api.upstream_application import (
    CHAT,
    PLAIN,
    UpstreamApi,
    open_upstream_api,
    openai_answer,
)
from tests.support.fake_upstream import as_events

HI: list[Any] = [{"role": "user", "content": "hi"}]
CALL = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CHAT_BODY = {
    "model": "openai/m",
    "messages": HI,
    "tools": [{"type": "function", "function": FUNCTION}],
}
RESPONSE_BODY = {"model": "openai/m", "input": "hi", "tools": [{"type": "function"} | FUNCTION]}
MESSAGE_BODY = {
    "model": "openai/m",
    "messages": HI,
    "max_tokens": 9,
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
# Where the references show null.
NULLS = {
    "chat": {
        "choices.logprobs", "choices.message.refusal", "choices.message.content",
        "choices.delta.refusal", "choices.finish_reason", "usage",
    },
    "completions": {"choices.logprobs", "choices.finish_reason", "usage"},
    "responses": {
        "error", "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls",
        "prompt_cache_key", "reasoning", "safety_identifier", "temperature",
        "top_p", "usage", "user", "completed_at",
    },
    "messages": {"stop_reason", "stop_sequence", "delta.stop_sequence"},
}  # fmt: skip


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[UpstreamApi, None]:
    async with open_upstream_api(tmp_path) as api:
        api.upstream.on(CHAT, openai_answer(), openai_answer("", "tool_calls", tool_calls=[CALL]))
        usage: Any = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
        text = {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}
        api.upstream.on(PLAIN, as_events(text, usage, last=b"data: [DONE]\n\n"))
        yield api


def nulls(value: Any, place: str = "") -> Iterator[str]:
    """The places of nulls, such as "choices.logprobs"."""
    if value is None:
        yield place
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, Any]", value).items():
            yield from nulls(inner, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from nulls(inner, place)


def unknown_fields(model: Any) -> Iterator[str]:
    """Fields that the client's model does not have."""
    if isinstance(model, BaseModel):
        yield from model.model_extra or {}
        for name in type(model).model_fields:
            yield from unknown_fields(getattr(model, name))
    elif isinstance(model, list):
        for inner in cast("list[Any]", model):
            yield from unknown_fields(inner)


def check(value: Any, kind: Any, dialect: str, inside: str = "") -> None:
    model = TypeAdapter(kind).validate_python(value)
    assert list(unknown_fields(model)) == []
    found = {place.removeprefix(inside) for place in nulls(value)}
    assert found <= NULLS[dialect]


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def test_chat_when_answered_then_it_fits_the_official_model(api: UpstreamApi) -> None:
    for _ in range(2):
        told = await api.post("/v1/chat/completions", CHAT_BODY)
        check(told.json(), openai.types.chat.ChatCompletion, "chat")
    streamed = CHAT_BODY | {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in events((await api.post("/v1/chat/completions", streamed)).text):
        check(chunk, openai.types.chat.ChatCompletionChunk, "chat")


async def test_completion_when_answered_then_it_fits_the_official_model(api: UpstreamApi) -> None:
    body = {"model": "openai/m", "prompt": "a"}
    told = await api.post("/v1/completions", body)
    check(told.json(), openai.types.Completion, "completions")


async def test_response_when_answered_then_it_fits_the_official_model(api: UpstreamApi) -> None:
    for _ in range(2):
        told = await api.post("/v1/responses", RESPONSE_BODY)
        check(told.json(), openai.types.responses.Response, "responses")
    streamed = await api.post("/v1/responses", RESPONSE_BODY | {"stream": True})
    for event in events(streamed.text):
        check(event, openai.types.responses.ResponseStreamEvent, "responses", "response.")


async def test_message_when_answered_then_it_fits_the_official_model(api: UpstreamApi) -> None:
    for _ in range(2):
        told = await api.post("/v1/messages", MESSAGE_BODY)
        check(told.json(), anthropic.types.Message, "messages")
    streamed = await api.post("/v1/messages", MESSAGE_BODY | {"stream": True})
    for event in events(streamed.text):
        if event["type"] != "ping":
            check(event, anthropic.types.RawMessageStreamEvent, "messages", "message.")
