"""The OpenAI provider against a fake server that speaks its wire format."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Finished,
    FinishReason,
    Likelihood,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput, ProviderFailed, UnknownModel
from appliance.spi.provider import Provider
from plugins.providers.openai import register
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

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
DONE = b"data: [DONE]\n\n"
USAGE: dict[str, Any] = {
    "choices": [],
    "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {}}})


def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call_piece(index: int | None, id_: str | None, name: str | None, text: str) -> dict[str, Any]:
    piece = {"id": id_, "function": {"name": name, "arguments": text}}
    return chunk(tool_calls=[piece if index is None else piece | {"index": index}])


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream, None]:
    async with fake_upstream() as fake:
        yield fake


@pytest.fixture
async def openai(upstream: FakeUpstream) -> AsyncGenerator[Provider, None]:
    found = build_provider(register, upstream.url, api_key=KEY)
    yield found
    await found.close()


async def test_stream_when_the_answer_is_whole_then_tells_text_usage_and_reason(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(
        CHAT, as_events(chunk(content="Hel"), chunk(content="lo"), chunk("stop"), USAGE, last=DONE)
    )
    events = await collect_events(openai, completion_request(max_tokens=9))
    assert text_of(events) == "Hello"
    assert events[-1] == Finished(FinishReason.STOP, TokenUsage(11, 5, 7, reasoning_tokens=3))
    (request,) = upstream.requests
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
    }


async def test_stream_when_repeated_then_reuses_the_connection(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(CHAT, as_events(chunk("stop", content="x"), USAGE, last=DONE))
    for _ in range(3):
        await collect_events(openai, completion_request())
    assert upstream.connections == 1


async def test_stream_when_everything_is_asked_then_everything_is_sent(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(CHAT, as_events(chunk("stop", content="x"), USAGE, last=DONE))
    sampling = Sampling(
        temperature=0.1, top_k=3, top_p=0.5, min_p=0.2, repeat_penalty=1.5,
        frequency_penalty=0.3, presence_penalty=0.4, logit_bias=((5, -1.0),), logprobs=2,
        seed=42, stop=("a", "b"),
    )  # fmt: skip
    output = OutputFormat(OutputKind.SCHEMA, {"type": "object"}, name="thing", strict=True)
    choice = ToolChoice(ToolUse.REQUIRED, "weather", parallel=False)
    messages = (
        Message(MessageRole.SYSTEM, "Be brief."),
        Message(MessageRole.ASSISTANT, "", (ToolCall("c1", "weather", '{"city":1}'),)),
        Message(MessageRole.TOOL, "sunny", tool_call_id="c1"),
    )
    await collect_events(
        openai,
        CompletionRequest(
            "m", messages, sampling, tools=(WEATHER,), tool_choice=choice, output=output
        ),
    )
    body = upstream.requests[0].body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":1}'},
                }
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ]
    expected = {
        "temperature": 0.1, "top_k": 3, "top_p": 0.5, "min_p": 0.2, "repeat_penalty": 1.5,
        "repetition_penalty": 1.5, "frequency_penalty": 0.3, "presence_penalty": 0.4,
        "logit_bias": {"5": -1.0}, "logprobs": True, "top_logprobs": 2, "seed": 42,
        "stop": ["a", "b"], "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "thing", "schema": {"type": "object"}, "strict": True},
        },
    }  # fmt: skip
    assert {key: body[key] for key in expected} == expected
    assert body["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize(
    "pieces",
    [
        [
            call_piece(0, "c1", "weather", ""),
            call_piece(0, None, None, '{"city":'),
            call_piece(0, None, None, "1}"),
            call_piece(1, "c2", "weather", '{"city":2}'),
        ],
        [
            call_piece(0, "c1", "weather", '{"city":1}'),
            call_piece(0, "c2", "weather", '{"city":2}'),
        ],
        [
            call_piece(None, "c1", "weather", '{"city":1}'),
            call_piece(None, "c2", "weather", '{"city":'),
            call_piece(None, None, None, "2}"),
        ],
    ],
)
@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
async def test_stream_when_calls_come_in_deltas_then_emits_them_complete(
    upstream: FakeUpstream, openai: Provider, pieces: list[dict[str, Any]], reason: str
) -> None:
    upstream.on(CHAT, as_events(*pieces, chunk(reason), USAGE, last=DONE))
    events = await collect_events(openai, completion_request(tools=(WEATHER,)))
    assert events[:-1] == [
        ToolCall("c1", "weather", '{"city":1}'),
        ToolCall("c2", "weather", '{"city":2}'),
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.TOOL_CALLS


async def test_stream_when_likelihoods_are_asked_then_they_come_with_the_text(
    upstream: FakeUpstream, openai: Provider
) -> None:
    half = {"token": "\ufffd", "logprob": -0.5, "bytes": [195], "top_logprobs": []}
    rest = {
        "token": "\ufffd", "logprob": -0.25, "bytes": [164],
        "top_logprobs": [{"token": "a", "logprob": -2.0, "bytes": None}],
    }  # fmt: skip
    first = {"choices": [{"delta": {"content": ""}, "logprobs": {"content": [half]}}]}
    second = {"choices": [{"delta": {"content": "ä"}, "logprobs": {"content": [rest]}}]}
    upstream.on(CHAT, as_events(first, second, chunk("stop"), USAGE, last=DONE))
    events = await collect_events(openai, completion_request(sampling=Sampling(logprobs=1)))
    assert events[0] == TextDelta(
        "ä",
        (
            TokenLikelihood(Likelihood("\ufffd", -0.5, b"\xc3")),
            TokenLikelihood(Likelihood("\ufffd", -0.25, b"\xa4"), (Likelihood("a", -2.0, b"a"),)),
        ),
    )


async def test_stream_when_the_prompt_is_raw_then_asks_for_a_completion(
    upstream: FakeUpstream, openai: Provider
) -> None:
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.5], "top_logprobs": [{"y": -3, "x": -1.5}]}
    piece = {"choices": [{"text": "x", "logprobs": logprobs, "finish_reason": "length"}]}
    upstream.on(RAW, as_events(piece, USAGE, last=DONE))
    request = CompletionRequest(
        "m", sampling=Sampling(logprobs=2), max_tokens=1, raw=RawPrompt("def f(", "return x")
    )
    events = await collect_events(openai, request)
    best = Likelihood("x", -1.5, b"x")
    assert events[0] == TextDelta(
        "x", (TokenLikelihood(best, (best, Likelihood("y", -3.0, b"y"))),)
    )
    assert events[-1] == Finished(FinishReason.LENGTH, TokenUsage(11, 5, 7, reasoning_tokens=3))
    (body,) = upstream.bodies(RAW)
    assert (body["prompt"], body["suffix"], body["logprobs"]) == ("def f(", "return x", 2)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([chunk("content_filter", content="x")], FinishReason.CONTENT_FILTER),
        ([chunk(refusal="I can't."), chunk("stop")], FinishReason.CONTENT_FILTER),
        ([chunk("length", content="x")], FinishReason.LENGTH),
        ([chunk("abort", content="x")], FinishReason.STOP),
    ],
)
async def test_stream_when_the_provider_ends_it_then_the_finish_reason_is_mapped(
    upstream: FakeUpstream, openai: Provider, chunks: list[Any], reason: FinishReason
) -> None:
    upstream.on(CHAT, as_events(*chunks, USAGE, last=DONE))
    last = (await collect_events(openai, completion_request()))[-1]
    assert isinstance(last, Finished)
    assert last.reason is reason


async def test_stream_when_there_is_no_usage_then_fails_and_says_so(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(CHAT, as_events(chunk("stop", content="x"), last=DONE))
    with pytest.raises(ProviderFailed, match="include_usage"):
        await collect_events(openai, completion_request())


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (
            completion_request(output=OutputFormat(OutputKind.GRAMMAR, grammar="root ::= x")),
            "grammar",
        ),
        (CompletionRequest("m", raw=RawPrompt("x"), tools=(WEATHER,)), "tools"),
        (CompletionRequest("m", raw=RawPrompt("x"), output=OutputFormat(OutputKind.JSON)), "resp"),
        (completion_request(raw=RawPrompt("x")), "messages"),
        (completion_request(tool_choice=ToolChoice(ToolUse.REQUIRED)), "tool_choice"),
    ],
)
async def test_stream_when_a_field_is_unsupported_then_rejected_without_a_request(
    upstream: FakeUpstream, openai: Provider, request_: CompletionRequest, field: str
) -> None:
    with pytest.raises(InvalidInput, match=field):
        await collect_events(openai, request_)
    assert upstream.requests == []


async def test_stream_when_official_openai_lacks_a_parameter_then_rejected() -> None:
    found = build_provider(register, "", api_key=KEY)
    for sampling in (Sampling(top_k=1), Sampling(min_p=0.5), Sampling(repeat_penalty=2.0)):
        with pytest.raises(InvalidInput, match="openai has no such option"):
            await collect_events(found, completion_request(sampling=sampling))
    await found.close()


async def test_stream_when_a_model_takes_no_temperature_then_goes_without_and_remembers(
    upstream: FakeUpstream, openai: Provider
) -> None:
    refused = {"error": {"message": "'temperature' does not support 0.9 with this model."}}
    good = as_events(chunk("stop", content="x"), USAGE, last=DONE)
    upstream.on(CHAT, as_json(refused, 400), good)
    request = completion_request(sampling=Sampling(temperature=0.9))
    await collect_events(openai, request)
    await collect_events(openai, request)
    assert ["temperature" in body for body in upstream.bodies(CHAT)] == [True, False, False]
    upstream.on(CHAT, as_json(refused, 400))
    with pytest.raises(InvalidInput, match="temperature"):
        await collect_events(openai, completion_request(sampling=Sampling(temperature=0)))


async def test_models_when_listed_then_context_and_kind_with_one_request(
    upstream: FakeUpstream, openai: Provider
) -> None:
    data = [
        {"id": "big", "max_model_len": 4096},
        {"id": "small", "meta": {"n_ctx_train": 512}},
        {"id": "text-embedding-3-small"},
    ]
    upstream.on("/v1/models", as_json({"object": "list", "data": data}))
    models = await openai.models()
    assert await openai.models() == models
    assert [(m.name, m.context_tokens, m.embeds) for m in models] == [
        ("big", 4096, False),
        ("small", 512, False),
        ("text-embedding-3-small", None, True),
    ]
    assert len(upstream.requests) == 1
    await openai.load("big")
    with pytest.raises(UnknownModel):
        await openai.load("other")


async def test_models_when_configured_then_only_these_are_offered(upstream: FakeUpstream) -> None:
    found = build_provider(register, upstream.url, models=("a",))
    assert [model.name for model in await found.models()] == ["a"]
    with pytest.raises(UnknownModel, match="configured: a"):
        await collect_events(found, completion_request(model="b"))
    assert upstream.requests == []
    await found.close()


async def test_embed_when_asked_then_vectors_have_length_one_in_order(
    upstream: FakeUpstream, openai: Provider
) -> None:
    data = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
    upstream.on("/v1/embeddings", as_json({"data": data, "usage": {"prompt_tokens": 6}}))
    found = await openai.embed(EmbeddingRequest("e", ("x", "y"), 2))
    assert found.vectors == ((0.6, 0.8), (0.0, 1.0))
    assert found.usage == TokenUsage(6)
    assert upstream.requests[0].body["dimensions"] == 2


@pytest.mark.parametrize("data", [[], [{"embedding": [0, 0]}], [{"embedding": [1]}] * 2])
async def test_embed_when_the_vectors_are_wrong_then_fails(
    upstream: FakeUpstream, openai: Provider, data: list[Any]
) -> None:
    upstream.on("/v1/embeddings", as_json({"data": data}))
    with pytest.raises(ProviderFailed):
        await openai.embed(EmbeddingRequest("e", ("x",)))


async def test_count_when_vllm_answers_then_its_count_is_taken(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on("/tokenize", as_json({"count": 21, "max_model_len": 99, "tokens": []}))
    assert await openai.count_tokens(completion_request(tools=(WEATHER,))) == 21
    assert upstream.requests[0].body["tools"][0]["function"]["name"] == "weather"


async def test_count_when_the_server_has_no_count_then_upper_bound_and_no_more_probes(
    upstream: FakeUpstream, openai: Provider
) -> None:
    first = await openai.count_tokens(completion_request("naïve " * 10))
    requests_before = len(upstream.requests)
    assert first >= len(("naïve " * 10).encode())
    await openai.count_tokens(completion_request())
    assert len(upstream.requests) == requests_before


async def test_count_when_the_address_is_busy_then_fails_and_asks_again_later(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on("/tokenize", as_json({"error": "busy"}, 503), as_json({"count": 3}))
    with pytest.raises(ProviderFailed):
        await openai.count_tokens(completion_request())
    assert await openai.count_tokens(completion_request()) == 3
