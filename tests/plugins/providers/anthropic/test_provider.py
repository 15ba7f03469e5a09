"""The Anthropic provider against a fake server that speaks its wire format."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Finished,
    FinishReason,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    TextDelta,
    TokenUsage,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
    ProviderFailed,
    RateLimited,
    UnknownModel,
)
from appliance.spi.provider import Provider
from plugins.providers.anthropic import register
from tests.support.fake_upstream import (
    KEY,
    FakeUpstream,
    as_events,
    as_json,
    build_provider,
    collect_events,
    completion_request,
    fake_upstream,
    text_of,
)

MESSAGES = "/v1/messages"
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 4,
            "cache_read_input_tokens": 5,
            "output_tokens": 1,
        }
    },
}
STOP: dict[str, Any] = {"type": "message_stop"}
WEATHER = Tool("weather", parameters={"type": "object", "properties": {"city": {}}})


def block(index: int, kind: str, *deltas: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    start = {"type": "content_block_start", "index": index, "content_block": {"type": kind} | more}
    rest = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [start, *rest, {"type": "content_block_stop", "index": index}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": words}


def ending(reason: str, **more: Any) -> dict[str, Any]:
    delta = {"stop_reason": reason} | more
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream, None]:
    async with fake_upstream() as fake:
        yield fake


@pytest.fixture
async def anthropic(upstream: FakeUpstream) -> AsyncGenerator[Provider, None]:
    found = build_provider(register, upstream.url, api_key=KEY)
    yield found
    await found.close()


async def test_stream_when_the_answer_is_whole_then_tells_text_usage_and_stop(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    thinking = block(0, "thinking", {"type": "thinking_delta", "thinking": "hm"})
    words = block(1, "text", text("Hel"), {"type": "ping"}, text("lo"))
    last = ending("stop_sequence", stop_sequence="END")
    upstream.on(MESSAGES, as_events(START, {"type": "ping"}, *thinking, *words, last, STOP))
    events = await collect_events(anthropic, completion_request(max_tokens=9))
    assert text_of(events) == "Hello"
    assert events[-1] == Finished(FinishReason.STOP, TokenUsage(12, 9, 5), "END")
    (request,) = upstream.requests
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == (
        KEY,
        "2023-06-01",
    )
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_tokens": 9,
        "stream": True,
    }


async def test_stream_when_tools_are_called_then_each_call_is_whole(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"city"', ":1}")]
    one = block(0, "tool_use", *pieces, id="t1", name="weather", input={})
    two = block(1, "tool_use", id="t2", name="weather", input={"city": 2})
    upstream.on(MESSAGES, as_events(START, *one, *two, ending("tool_use"), STOP))
    events = await collect_events(anthropic, completion_request(tools=(WEATHER,)))
    assert events[:-1] == [
        ToolCall("t1", "weather", '{"city":1}'),
        ToolCall("t2", "weather", '{"city":2}'),
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.TOOL_CALLS


async def test_stream_when_everything_is_asked_then_everything_is_sent(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    upstream.on(MESSAGES, as_events(START, *block(0, "text", text("x")), ending("end_turn"), STOP))
    calls = (ToolCall("t1", "weather", '{"city":1}'), ToolCall("t2", "weather", ""))
    messages = (
        Message(MessageRole.SYSTEM, "Be brief."),
        Message(MessageRole.USER, "Weather?"),
        Message(MessageRole.ASSISTANT, "", calls),
        Message(MessageRole.TOOL, "sunny", tool_call_id="t1"),
        Message(MessageRole.TOOL, "", tool_call_id="t2"),
        Message(MessageRole.SYSTEM, "Be kind."),
        Message(MessageRole.USER, "So?"),
    )
    request = CompletionRequest(
        "m",
        messages,
        Sampling(temperature=0.1, top_p=0.5, top_k=3, seed=1, stop=("END",)),
        max_tokens=5,
        tools=(WEATHER, Tool("now")),
        tool_choice=ToolChoice(ToolUse.REQUIRED, "weather", parallel=False),
        output=OutputFormat(OutputKind.SCHEMA, {"type": "object"}),
    )
    await collect_events(anthropic, request)
    body = upstream.requests[0].body
    assert body["system"] == "Be brief.\n\nBe kind."
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": 1}},
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
        {"type": "tool_result", "tool_use_id": "t2"},
        {"type": "text", "text": "So?"},
    ]
    assert body["tool_choice"] == {
        "type": "tool", "name": "weather", "disable_parallel_tool_use": True,
    }  # fmt: skip
    assert body["tools"][1]["input_schema"] == {"type": "object", "properties": {}}
    assert body["output_config"]["format"]["schema"] == {"type": "object"}
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.1, 0.5, 3)
    assert body["stop_sequences"] == ["END"]
    assert "seed" not in body


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("refusal", FinishReason.CONTENT_FILTER),
    ],
)
async def test_stream_when_the_provider_ends_it_then_the_finish_reason_is_mapped(
    upstream: FakeUpstream, anthropic: Provider, reason: str, expected: FinishReason
) -> None:
    upstream.on(MESSAGES, as_events(START, ending(reason), STOP))
    last = (await collect_events(anthropic, completion_request()))[-1]
    assert isinstance(last, Finished)
    assert last.reason is expected


@pytest.mark.parametrize(
    ("kind", "expected", "status"),
    [
        ("overloaded_error", ProviderFailed, 529),
        ("api_error", ProviderFailed, None),
        ("rate_limit_error", RateLimited, 429),
    ],
)
async def test_stream_when_an_error_comes_midway_then_it_is_raised_after_the_text(
    upstream: FakeUpstream,
    anthropic: Provider,
    kind: str,
    expected: type[ApplianceError],
    status: int | None,
) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}
    upstream.on(MESSAGES, as_events(START, *block(0, "text", text("x"))[:2], error))
    events = anthropic.stream(completion_request())
    assert await anext(events) == TextDelta("x")
    with pytest.raises(expected) as caught:
        await anext(events)
    assert caught.value.details == {"status": status, "retryable": True}


async def test_stream_when_the_answer_has_no_end_then_fails(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    for events in ([START], [START, *block(0, "text", text("x")), STOP], [ending("end_turn")][:0]):
        upstream.on(MESSAGES, as_events(*events))
        with pytest.raises(ProviderFailed, match="before the completion was complete"):
            await collect_events(anthropic, completion_request())


@pytest.mark.parametrize(
    "case",
    [
        (404, "not_found_error", "model: m", UnknownModel),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 210,000 tokens > 200,000 maximum",
            ContextLengthExceeded,
        ),
        (529, "overloaded_error", "Overloaded", ProviderFailed),
    ],
)
async def test_stream_when_refused_then_the_error_says_why(
    upstream: FakeUpstream,
    anthropic: Provider,
    case: tuple[int, str, str, type[ApplianceError]],
) -> None:
    status, kind, message, expected = case
    body = {"type": "error", "error": {"type": kind, "message": message}}
    upstream.on(MESSAGES, as_json(body, status))
    with pytest.raises(ApplianceError) as caught:
        await collect_events(anthropic, completion_request())
    assert type(caught.value) is expected
    if expected is ContextLengthExceeded:
        assert caught.value.details == {"prompt_tokens": 210_000, "context_tokens": 200_000}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (completion_request(sampling=Sampling(logprobs=0)), "logprobs"),
        (completion_request(sampling=Sampling(logit_bias=((1, 1.0),))), "logit_bias"),
        (completion_request(sampling=Sampling(min_p=0.5)), "min_p"),
        (completion_request(sampling=Sampling(repeat_penalty=1.1)), "repeat_penalty"),
        (completion_request(sampling=Sampling(frequency_penalty=0.1)), "frequency_penalty"),
        (completion_request(sampling=Sampling(presence_penalty=0.1)), "presence_penalty"),
        (completion_request(output=OutputFormat(OutputKind.GRAMMAR, grammar="x")), "grammar"),
        (completion_request(output=OutputFormat(OutputKind.JSON)), "response_format"),
        (CompletionRequest("m", raw=RawPrompt("x")), "prompt"),
        (
            CompletionRequest(
                "m", (Message(MessageRole.ASSISTANT, "", (ToolCall("t", "x", "[1]"),)),)
            ),
            "tool_calls",
        ),
    ],
)
async def test_stream_when_it_can_not_be_had_then_refuses_by_name(
    upstream: FakeUpstream, anthropic: Provider, request_: CompletionRequest, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await collect_events(anthropic, request_)
    assert caught.value.details["field"] == field
    assert upstream.bodies(MESSAGES) == []


async def test_stream_when_no_bound_is_given_then_takes_the_model_s_own(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    listed = {
        "data": [
            {"id": "m", "display_name": "M", "max_input_tokens": 7, "max_tokens": 6},
            {"id": "old", "lifecycle": "retired"},
        ],
        "has_more": True,
        "last_id": "old",
    }
    upstream.on("/v1/models", as_json(listed), as_json({"data": [{"id": "n"}]}))
    upstream.on(MESSAGES, as_events(START, ending("end_turn"), STOP))
    await collect_events(anthropic, completion_request())
    await collect_events(anthropic, completion_request(model="n"))
    assert [body["max_tokens"] for body in upstream.bodies(MESSAGES)] == [6, 8192]
    assert [model.name for model in await anthropic.models()] == ["m", "n"]
    assert "after_id=old" in upstream.requests[1].path


async def test_count_when_asked_then_the_provider_counts_the_prompt(
    upstream: FakeUpstream, anthropic: Provider
) -> None:
    upstream.on("/v1/messages/count_tokens", as_json({"input_tokens": 17}))
    assert await anthropic.count_tokens(completion_request(tools=(WEATHER,))) == 17
    assert set(upstream.requests[0].body) == {"model", "messages", "tools"}


async def test_embed_when_asked_then_refuses(anthropic: Provider) -> None:
    with pytest.raises(InvalidInput, match="no embeddings"):
        await anthropic.embed(EmbeddingRequest("m", ("x",)))
