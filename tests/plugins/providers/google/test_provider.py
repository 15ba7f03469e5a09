"""The Google provider against a fake server written from the Gemini API's reference."""

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
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
    ProviderFailed,
    ProviderMisconfigured,
    RateLimited,
    UnknownModel,
)
from appliance.spi.provider import Provider
from plugins.providers.google import register
from plugins.providers.google.thought_signatures import SKIP_VALIDATOR, ThoughtSignatureCache
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

MODEL = "gemini-3-pro"
AT = f"/v1beta/models/{MODEL}"
STREAM = f"{AT}:streamGenerateContent"
USAGE = {
    "promptTokenCount": 10,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 2,
    "totalTokenCount": 15,
}
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {}}})


def piece(*parts: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": list(parts)}
    candidate: dict[str, Any] = {"content": content, "index": 0} | more
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "usageMetadata": USAGE}


def calls(name: str, city: int, **more: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": {"city": city}}} | more


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream, None]:
    async with fake_upstream() as fake:
        yield fake


@pytest.fixture
async def google(upstream: FakeUpstream) -> AsyncGenerator[Provider, None]:
    found = build_provider(register, upstream.url, api_key=KEY)
    yield found
    await found.close()


async def test_stream_when_the_answer_is_whole_then_tells_text_and_usage_without_thoughts(
    upstream: FakeUpstream, google: Provider
) -> None:
    thought = piece({"text": "hm", "thought": True})
    upstream.on(
        STREAM, as_events(thought, piece({"text": "Hel"}), piece({"text": "lo"}, reason="STOP"))
    )
    events = await collect_events(google, completion_request(model=MODEL, max_tokens=9))
    assert text_of(events) == "Hello"
    assert events[-1] == Finished(FinishReason.STOP, TokenUsage(10, 5, 4, reasoning_tokens=2))
    (request,) = upstream.requests
    assert request.path == f"{STREAM}?alt=sse"
    assert request.headers["x-goog-api-key"] == KEY
    assert request.body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {"maxOutputTokens": 9},
    }


async def test_stream_when_tools_are_called_then_signatures_return_with_the_history(
    upstream: FakeUpstream, google: Provider
) -> None:
    first = piece(calls("weather", 1, thoughtSignature="c2lnbg=="), calls("weather", 2))
    upstream.on(STREAM, as_events(first, piece({"text": ""}, reason="STOP")))
    *found, last = await collect_events(google, completion_request(model=MODEL, tools=(WEATHER,)))
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.TOOL_CALLS
    made = [call for call in found if isinstance(call, ToolCall)]
    assert [call.arguments for call in made] == ['{"city":1}', '{"city":2}']
    results = (
        Message(MessageRole.TOOL, '{"sky":"blue"}', tool_call_id=made[0].id),
        Message(MessageRole.TOOL, "rain", tool_call_id=made[1].id),
    )
    history = (Message(MessageRole.ASSISTANT, "", tuple(made)), *results)
    await collect_events(google, CompletionRequest(MODEL, history, tools=(WEATHER,)))
    model, user = upstream.requests[1].body["contents"]
    assert [part.get("thoughtSignature") for part in model["parts"]] == ["c2lnbg==", None]
    assert [part["functionResponse"]["response"] for part in user["parts"]] == [
        {"sky": "blue"},
        {"result": "rain"},
    ]
    assert user["parts"][0]["functionResponse"]["name"] == "weather"


@pytest.mark.parametrize(
    ("model", "mark"),
    [(MODEL, SKIP_VALIDATOR), ("gemini-2.5-pro", None), ("gemini-2.0-flash", None)],
)
async def test_stream_when_a_signature_is_unknown_then_newer_models_get_the_placeholder(
    upstream: FakeUpstream, google: Provider, model: str, mark: str | None
) -> None:
    path = f"/v1beta/models/{model}:streamGenerateContent"
    upstream.on(path, as_events(piece({"text": "x"}, reason="STOP")))
    history = (Message(MessageRole.ASSISTANT, "", (ToolCall("old", "weather", "{}"),)),)
    await collect_events(google, CompletionRequest(model, history))
    assert upstream.requests[0].body["contents"][0]["parts"][0].get("thoughtSignature") == mark


async def test_stream_when_everything_is_asked_then_everything_is_sent(
    upstream: FakeUpstream, google: Provider
) -> None:
    upstream.on(STREAM, as_events(piece({"text": "x"}, reason="STOP")))
    sampling = Sampling(
        temperature=0.1, top_k=3, top_p=0.5, frequency_penalty=0.3, presence_penalty=0.4,
        seed=42, logprobs=2, stop=("END",),
    )  # fmt: skip
    messages = (Message(MessageRole.SYSTEM, "Be brief."), Message(MessageRole.USER, "Hi"))
    choice = ToolChoice(ToolUse.REQUIRED, "weather")
    output = OutputFormat(OutputKind.SCHEMA, {"type": "object"})
    request = CompletionRequest(
        MODEL, messages, sampling, tools=(WEATHER,), tool_choice=choice, output=output
    )
    await collect_events(google, request)
    body = upstream.requests[0].body
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["generationConfig"] == {
        "temperature": 0.1, "topK": 3, "topP": 0.5, "frequencyPenalty": 0.3,
        "presencePenalty": 0.4, "seed": 42, "responseLogprobs": True, "logprobs": 2,
        "stopSequences": ["END"], "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }  # fmt: skip
    assert body["toolConfig"]["functionCallingConfig"] == {
        "mode": "ANY",
        "allowedFunctionNames": ["weather"],
    }
    declared = body["tools"][0]["functionDeclarations"][0]
    assert declared["parametersJsonSchema"] == dict(WEATHER.parameters)


async def test_stream_when_likelihoods_are_told_then_they_come_with_the_text(
    upstream: FakeUpstream, google: Provider
) -> None:
    best = {"token": "x", "tokenId": 1, "logProbability": -0.5}
    result = {"chosenCandidates": [best], "topCandidates": [{"candidates": [best]}]}
    upstream.on(STREAM, as_events(piece({"text": "x"}, reason="STOP", logprobsResult=result)))
    events = await collect_events(
        google, completion_request(model=MODEL, sampling=Sampling(logprobs=1))
    )
    drawn = Likelihood("x", -0.5, b"x")
    assert events[0] == TextDelta("x", (TokenLikelihood(drawn, (drawn,)),))


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (piece(reason="MAX_TOKENS"), FinishReason.LENGTH),
        (piece(reason="SAFETY"), FinishReason.CONTENT_FILTER),
        (piece(reason="RECITATION"), FinishReason.CONTENT_FILTER),
        (
            {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE},
            FinishReason.CONTENT_FILTER,
        ),
    ],
)
async def test_stream_when_the_provider_ends_it_then_the_finish_reason_is_mapped(
    upstream: FakeUpstream, google: Provider, last: dict[str, Any], expected: FinishReason
) -> None:
    upstream.on(STREAM, as_events(last))
    finished = (await collect_events(google, completion_request(model=MODEL)))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is expected


@pytest.mark.parametrize(
    "last",
    [piece({"text": "x"}), piece(reason="MALFORMED_FUNCTION_CALL"), {"error": {"code": 500}}],
)
async def test_stream_when_the_answer_is_not_complete_then_can_be_tried_again(
    upstream: FakeUpstream, google: Provider, last: dict[str, Any]
) -> None:
    upstream.on(STREAM, as_events(last))
    with pytest.raises(ProviderFailed) as caught:
        await collect_events(google, completion_request(model=MODEL))
    assert caught.value.details["retryable"] is True


def google_error(status: str, message: str, *details: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"error": {"status": status, "message": message, "details": list(details)}}]


@pytest.mark.parametrize(
    "case",
    [
        (400, google_error("INVALID_ARGUMENT", "bad"), InvalidInput, None),
        (
            400,
            google_error("INVALID_ARGUMENT", "key not valid", {"reason": "API_KEY_INVALID"}),
            ProviderMisconfigured,
            None,
        ),
        (
            400,
            google_error(
                "INVALID_ARGUMENT",
                "The input token count (120) exceeds the maximum number of tokens allowed (100).",
            ),
            ContextLengthExceeded,
            None,
        ),
        (404, google_error("NOT_FOUND", "models/x is not found"), UnknownModel, None),
        (
            429,
            google_error("RESOURCE_EXHAUSTED", "quota", {"retryDelay": "34.5s"}),
            RateLimited,
            34.5,
        ),
        (503, google_error("UNAVAILABLE", "overloaded"), ProviderFailed, None),
    ],
)
async def test_stream_when_refused_then_the_error_says_why(
    upstream: FakeUpstream,
    google: Provider,
    case: tuple[int, Any, type[ApplianceError], float | None],
) -> None:
    status, body, expected, wait = case
    upstream.on(STREAM, as_json(body, status))
    with pytest.raises(ApplianceError) as caught:
        await collect_events(google, completion_request(model=MODEL))
    assert type(caught.value) is expected
    assert caught.value.retry_after == wait


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"sampling": Sampling(logit_bias=((1, 1.0),))}, "logit_bias"),
        ({"sampling": Sampling(min_p=0.5)}, "min_p"),
        ({"sampling": Sampling(repeat_penalty=1.1)}, "repeat_penalty"),
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar="x")}, "grammar"),
        ({"tools": (WEATHER,), "tool_choice": ToolChoice(parallel=False)}, "parallel_tool_calls"),
        ({"raw": RawPrompt("x")}, "prompt"),
    ],
)
async def test_stream_when_it_can_not_be_had_then_refuses_by_name(
    upstream: FakeUpstream, google: Provider, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await collect_events(google, completion_request(model=MODEL, **more))
    assert caught.value.details["field"] == field
    assert upstream.requests == []


async def test_stream_when_a_result_has_no_call_then_refuses(google: Provider) -> None:
    messages = (Message(MessageRole.TOOL, "x", tool_call_id="nobody"),)
    with pytest.raises(InvalidInput, match="nobody"):
        await collect_events(google, CompletionRequest(MODEL, messages))


@pytest.mark.parametrize("model", ["../secrets", "a/b", "x:generate", "", "x?y", "models/../x"])
async def test_stream_when_the_model_name_is_invalid_then_no_request(
    upstream: FakeUpstream, google: Provider, model: str
) -> None:
    with pytest.raises(UnknownModel):
        await collect_events(google, completion_request(model=model))
    assert upstream.requests == []


async def test_models_when_listed_then_only_those_that_write_or_embed(
    upstream: FakeUpstream, google: Provider
) -> None:
    first = [
        {
            "name": f"models/{MODEL}",
            "inputTokenLimit": 100,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        },
        {"name": "models/imagen", "supportedGenerationMethods": ["predict"]},
    ]
    second = [{"name": "models/vec", "supportedGenerationMethods": ["embedContent"]}]
    upstream.on(
        "/v1beta/models",
        as_json({"models": first, "nextPageToken": "more"}),
        as_json({"models": second}),
    )
    found = [(m.name, m.context_tokens, m.embeds) for m in await google.models()]
    assert found == [(MODEL, 100, False), ("vec", None, True)]
    assert "pageToken=more" in upstream.requests[1].path


async def test_count_when_asked_then_the_provider_counts_the_whole_request(
    upstream: FakeUpstream, google: Provider
) -> None:
    upstream.on(f"{AT}:countTokens", as_json({"totalTokens": 17}))
    assert await google.count_tokens(completion_request(model=MODEL, tools=(WEATHER,))) == 17
    request = upstream.requests[0].body["generateContentRequest"]
    assert request["model"] == f"models/{MODEL}"
    assert "tools" in request


@pytest.mark.parametrize("tells", [True, False])
async def test_embed_when_asked_then_vectors_have_length_one_and_usage_is_counted(
    upstream: FakeUpstream, google: Provider, tells: bool
) -> None:
    answer: dict[str, Any] = {"embeddings": [{"values": [3, 4]}, {"values": [0, 2]}]}
    if tells:
        answer["usageMetadata"] = {"promptTokenCount": 6}
    upstream.on(f"{AT}:batchEmbedContents", as_json(answer))
    upstream.on(f"{AT}:countTokens", as_json({"totalTokens": 6}))
    found = await google.embed(EmbeddingRequest(MODEL, ("x", "y"), 2))
    assert found.vectors == ((0.6, 0.8), (0.0, 1.0))
    assert found.usage == TokenUsage(6)
    assert upstream.requests[0].body["requests"][0]["outputDimensionality"] == 2


def test_signatures_when_they_exceed_the_limit_then_the_oldest_are_evicted() -> None:
    signatures = ThoughtSignatureCache(max_bytes=10)
    for call in ("a", "b", "c"):
        signatures.store(call, "12345")
    assert [signatures.get(call) for call in ("a", "b", "c")] == ["", "12345", "12345"]
