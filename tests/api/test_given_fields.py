"""What a client gives is what an upstream gets: nothing filled in, nothing dropped (F40)."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.api.upstream_application import (
    CHAT,
    GEMINI,
    MESSAGES,
    PLAIN,
    VLLM_CHAT,
    UpstreamApi,
    open_upstream_api,
)
from tests.support.fake_upstream import as_events

HI: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
OPENAI_PLAIN = {"model": "m", "messages": HI} | STREAMED
ANTHROPIC_PLAIN = {
    "model": "m",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "stream": True,
}
GEMINI_PLAIN = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}

DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HI}),
    "responses": ("/v1/responses", {"input": "hi"}),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 9}),
}
UPSTREAMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "openai": (CHAT, OPENAI_PLAIN, "max_completion_tokens"),
    "vllm": (VLLM_CHAT, OPENAI_PLAIN, "max_tokens"),
    "anthropic": (MESSAGES, ANTHROPIC_PLAIN, "max_tokens"),
    "google": (GEMINI, GEMINI_PLAIN, "maxOutputTokens"),
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[UpstreamApi, None]:
    async with open_upstream_api(tmp_path) as api:
        yield api


@pytest.mark.parametrize("provider", UPSTREAMS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_body_when_only_a_prompt_is_given_then_it_holds_nothing_else(
    api: UpstreamApi, dialect: str, provider: str
) -> None:
    path, body = DIALECTS[dialect]
    upstream_path, expected, length_field = UPSTREAMS[provider]
    answer = await api.post(path, body | {"model": f"{provider}/m"})
    assert answer.status_code == 200, answer.text
    sent = api.sent(upstream_path)
    if dialect == "messages" and provider == "google":
        expected = expected | {"generationConfig": {length_field: 9}}
    elif dialect == "messages":
        expected = expected | {length_field: 9}
    elif provider == "anthropic":  # its API requires a length
        expected = expected | {"max_tokens": sent["max_tokens"]}
    assert sent == expected


async def test_body_when_openais_defaults_are_given_then_they_are_sent(api: UpstreamApi) -> None:
    given: dict[str, Any] = {
        "temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
        "seed": 0, "stop": ["END"], "max_completion_tokens": 16, "logprobs": True,
        "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": False}}
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": SCHEMA, "strict": False},
        },
    }  # fmt: skip
    answer = await api.post("/v1/chat/completions", {"model": "openai/m", "messages": HI} | given)
    assert answer.status_code == 200, answer.text
    assert api.sent(CHAT) == OPENAI_PLAIN | given


async def test_body_when_a_tool_is_given_without_a_choice_then_no_choice_is_sent(
    api: UpstreamApi,
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    body = {"messages": HI, "tools": tools}
    await api.post("/v1/chat/completions", body | {"model": "openai/m"})
    assert api.sent(CHAT) == OPENAI_PLAIN | {"tools": tools}
    await api.post("/v1/chat/completions", body | {"model": "anthropic/m"})
    sent = api.sent(MESSAGES)
    assert set(sent) == {*ANTHROPIC_PLAIN, "max_tokens", "tools"}
    await api.post("/v1/chat/completions", body | {"model": "google/m"})
    declaration = {"name": "f", "parametersJsonSchema": SCHEMA}
    assert api.sent(GEMINI) == GEMINI_PLAIN | {"tools": [{"functionDeclarations": [declaration]}]}


async def test_body_when_anthropic_gets_one_of_temperature_and_top_p_then_not_the_other(
    api: UpstreamApi,
) -> None:
    body = {"model": "anthropic/m", "messages": HI, "max_tokens": 9}
    for given in ({"temperature": 1.0}, {"top_p": 1.0}, {"top_k": 0}):
        answer = await api.post("/v1/messages", body | given)
        assert answer.status_code == 200, answer.text
        assert api.sent(MESSAGES) == ANTHROPIC_PLAIN | {"max_tokens": 9} | given


async def test_body_when_a_plain_completion_then_no_length_is_filled_in(api: UpstreamApi) -> None:
    choice = {"index": 0, "text": "x", "finish_reason": "stop"}
    usage: Any = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    answer = as_events({"choices": [choice]}, usage, last=b"data: [DONE]\n\n")
    api.upstream.on(PLAIN, answer)
    done = await api.post("/v1/completions", {"model": "openai/m", "prompt": "a"})
    assert done.json()["choices"][0]["text"] == "x"
    assert api.sent(PLAIN) == {"model": "m", "prompt": "a"} | STREAMED


async def test_body_when_an_option_without_effect_is_given_then_it_is_not_refused(
    api: UpstreamApi,
) -> None:
    """Some clients always send penalties of 0, which an upstream without them needs not know."""
    body = {"messages": HI, "frequency_penalty": 0, "presence_penalty": 0, "top_k": 0, "min_p": 0}
    for provider in ("openai", "anthropic"):
        answer = await api.post("/v1/chat/completions", body | {"model": f"{provider}/m"})
        assert answer.status_code == 200, answer.text
    refused = await api.post("/v1/chat/completions", body | {"model": "openai/m", "top_k": 5})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_k"


async def test_response_when_sampling_is_not_given_then_none_is_told(api: UpstreamApi) -> None:
    answer = await api.post("/v1/responses", {"model": "openai/m", "input": "hi"})
    assert (answer.json()["temperature"], answer.json()["top_p"]) == (None, None)
