"""The adapter for OpenAI's API against a fake that speaks its wire format."""

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
    ask,
    fake_upstream,
    provider,
    text_of,
    told,
)

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
DONE = b"data: [DONE]\n\n"
USAGE: dict[str, Any] = {
    "choices": [],
    "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 7},
    },
}
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {}}})


def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call_piece(index: int | None, id_: str | None, name: str | None, text: str) -> dict[str, Any]:
    piece = {"id": id_, "function": {"name": name, "arguments": text}}
    return chunk(tool_calls=[piece if index is None else piece | {"index": index}])


@pytest.fixture
async def far() -> AsyncGenerator[FakeUpstream, None]:
    async with fake_upstream() as fake:
        yield fake


@pytest.fixture
async def openai(far: FakeUpstream) -> AsyncGenerator[Provider, None]:
    found = provider(register, far.url, api_key=KEY)
    yield found
    await found.close()


async def test_stream_when_the_answer_is_whole_then_tells_text_usage_and_reason(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on(
        CHAT, as_events(chunk(content="Hel"), chunk(content="lo"), chunk("stop"), USAGE, last=DONE)
    )
    events = await told(openai, ask(max_tokens=9))
    assert text_of(events) == "Hello"
    assert events[-1] == Finished(FinishReason.STOP, TokenUsage(11, 5, 7))
    (asked,) = far.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
    }


async def test_stream_when_repeated_then_reuses_the_connection(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on(CHAT, as_events(chunk("stop", content="x"), USAGE, last=DONE))
    for _ in range(3):
        await told(openai, ask())
    assert far.connections == 1


async def test_stream_when_everything_is_asked_then_everything_is_sent(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on(CHAT, as_events(chunk("stop", content="x"), USAGE, last=DONE))
    sampling = Sampling(
        temperature=0.1, top_k=3, top_p=0.5, min_p=0.2, repeat_penalty=1.5,
        frequency_penalty=0.3, presence_penalty=0.4, logit_bias=((5, -1.0),), logprobs=2,
        seed=42, stop=("a", "b"),
    )  # fmt: skip
    output = OutputFormat(OutputKind.SCHEMA, {"type": "object"}, name="thing")
    choice = ToolChoice(ToolUse.REQUIRED, "weather", parallel=False)
    messages = (
        Message(MessageRole.SYSTEM, "Be brief."),
        Message(MessageRole.ASSISTANT, "", (ToolCall("c1", "weather", '{"city":1}'),)),
        Message(MessageRole.TOOL, "sunny", tool_call_id="c1"),
    )
    await told(
        openai,
        CompletionRequest(
            "m", messages, sampling, tools=(WEATHER,), tool_choice=choice, output=output
        ),
    )
    body = far.asked[0].body
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
    wanted = {
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
    assert {key: body[key] for key in wanted} == wanted
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
async def test_stream_when_calls_come_in_pieces_then_tells_them_whole(
    far: FakeUpstream, openai: Provider, pieces: list[dict[str, Any]], reason: str
) -> None:
    far.on(CHAT, as_events(*pieces, chunk(reason), USAGE, last=DONE))
    events = await told(openai, ask(tools=(WEATHER,)))
    assert events[:-1] == [
        ToolCall("c1", "weather", '{"city":1}'),
        ToolCall("c2", "weather", '{"city":2}'),
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.TOOL_CALLS


async def test_stream_when_likelihoods_are_asked_then_they_come_with_the_text(
    far: FakeUpstream, openai: Provider
) -> None:
    half = {"token": "\ufffd", "logprob": -0.5, "bytes": [195], "top_logprobs": []}
    rest = {
        "token": "\ufffd", "logprob": -0.25, "bytes": [164],
        "top_logprobs": [{"token": "a", "logprob": -2.0, "bytes": None}],
    }  # fmt: skip
    first = {"choices": [{"delta": {"content": ""}, "logprobs": {"content": [half]}}]}
    second = {"choices": [{"delta": {"content": "ä"}, "logprobs": {"content": [rest]}}]}
    far.on(CHAT, as_events(first, second, chunk("stop"), USAGE, last=DONE))
    events = await told(openai, ask(sampling=Sampling(logprobs=1)))
    assert events[0] == TextDelta(
        "ä",
        (
            TokenLikelihood(Likelihood("\ufffd", -0.5, b"\xc3")),
            TokenLikelihood(Likelihood("\ufffd", -0.25, b"\xa4"), (Likelihood("a", -2.0, b"a"),)),
        ),
    )


async def test_stream_when_the_prompt_is_raw_then_asks_for_a_completion(
    far: FakeUpstream, openai: Provider
) -> None:
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.5], "top_logprobs": [{"y": -3, "x": -1.5}]}
    piece = {"choices": [{"text": "x", "logprobs": logprobs, "finish_reason": "length"}]}
    far.on(RAW, as_events(piece, USAGE, last=DONE))
    request = CompletionRequest(
        "m", sampling=Sampling(logprobs=2), max_tokens=1, raw=RawPrompt("def f(", "return x")
    )
    events = await told(openai, request)
    best = Likelihood("x", -1.5, b"x")
    assert events[0] == TextDelta(
        "x", (TokenLikelihood(best, (best, Likelihood("y", -3.0, b"y"))),)
    )
    assert events[-1] == Finished(FinishReason.LENGTH, TokenUsage(11, 5, 7))
    (body,) = far.bodies(RAW)
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
async def test_stream_when_the_provider_ends_the_answer_then_the_reason_is_told(
    far: FakeUpstream, openai: Provider, chunks: list[Any], reason: FinishReason
) -> None:
    far.on(CHAT, as_events(*chunks, USAGE, last=DONE))
    last = (await told(openai, ask()))[-1]
    assert isinstance(last, Finished)
    assert last.reason is reason


async def test_stream_when_no_usage_is_told_then_fails_and_says_so(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on(CHAT, as_events(chunk("stop", content="x"), last=DONE))
    with pytest.raises(ProviderFailed, match="include_usage"):
        await told(openai, ask())


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask(output=OutputFormat(OutputKind.GRAMMAR, grammar="root ::= x")), "grammar"),
        (CompletionRequest("m", raw=RawPrompt("x"), tools=(WEATHER,)), "tools"),
        (CompletionRequest("m", raw=RawPrompt("x"), output=OutputFormat(OutputKind.JSON)), "resp"),
        (ask(raw=RawPrompt("x")), "messages"),
        (ask(tool_choice=ToolChoice(ToolUse.REQUIRED)), "tool_choice"),
    ],
)
async def test_stream_when_it_can_not_be_had_then_refuses_by_name_and_asks_nothing(
    far: FakeUpstream, openai: Provider, request_: CompletionRequest, field: str
) -> None:
    with pytest.raises(InvalidInput, match=field):
        await told(openai, request_)
    assert far.asked == []


async def test_stream_when_openai_itself_is_asked_for_what_only_others_have_then_refuses() -> None:
    found = provider(register, "", api_key=KEY)
    for sampling in (Sampling(top_k=1), Sampling(min_p=0.5), Sampling(repeat_penalty=2.0)):
        with pytest.raises(InvalidInput, match="openai can't"):
            await told(found, ask(sampling=sampling))
    await found.close()


async def test_stream_when_a_model_takes_no_temperature_then_goes_without_and_remembers(
    far: FakeUpstream, openai: Provider
) -> None:
    refused = {"error": {"message": "'temperature' does not support 0.9 with this model."}}
    good = as_events(chunk("stop", content="x"), USAGE, last=DONE)
    far.on(CHAT, as_json(refused, 400), good)
    request = ask(sampling=Sampling(temperature=0.9))
    await told(openai, request)
    await told(openai, request)
    assert ["temperature" in body for body in far.bodies(CHAT)] == [True, False, False]
    far.on(CHAT, as_json(refused, 400))
    with pytest.raises(InvalidInput, match="temperature"):
        await told(openai, ask(sampling=Sampling(temperature=0)))


async def test_models_when_listed_then_tells_room_and_kind_and_asks_once(
    far: FakeUpstream, openai: Provider
) -> None:
    data = [
        {"id": "big", "max_model_len": 4096},
        {"id": "small", "meta": {"n_ctx_train": 512}},
        {"id": "text-embedding-3-small"},
    ]
    far.on("/v1/models", as_json({"object": "list", "data": data}))
    models = await openai.models()
    assert await openai.models() == models
    assert [(m.name, m.context_tokens, m.embeds) for m in models] == [
        ("big", 4096, False),
        ("small", 512, False),
        ("text-embedding-3-small", None, True),
    ]
    assert len(far.asked) == 1
    await openai.load("big")
    with pytest.raises(UnknownModel):
        await openai.load("other")


async def test_models_when_configured_then_only_these_are_offered(far: FakeUpstream) -> None:
    found = provider(register, far.url, models=("a",))
    assert [model.name for model in await found.models()] == ["a"]
    with pytest.raises(UnknownModel, match="offers only: a"):
        await told(found, ask(model="b"))
    assert far.asked == []
    await found.close()


async def test_embed_when_asked_then_vectors_have_length_one_in_order(
    far: FakeUpstream, openai: Provider
) -> None:
    data = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
    far.on("/v1/embeddings", as_json({"data": data, "usage": {"prompt_tokens": 6}}))
    found = await openai.embed(EmbeddingRequest("e", ("x", "y"), 2))
    assert found.vectors == ((0.6, 0.8), (0.0, 1.0))
    assert found.usage == TokenUsage(6)
    assert far.asked[0].body["dimensions"] == 2


@pytest.mark.parametrize("data", [[], [{"embedding": [0, 0]}], [{"embedding": [1]}] * 2])
async def test_embed_when_the_vectors_are_wrong_then_fails(
    far: FakeUpstream, openai: Provider, data: list[Any]
) -> None:
    far.on("/v1/embeddings", as_json({"data": data}))
    with pytest.raises(ProviderFailed):
        await openai.embed(EmbeddingRequest("e", ("x",)))


async def test_count_when_vllm_answers_then_its_count_is_taken(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on("/tokenize", as_json({"count": 21, "max_model_len": 99, "tokens": []}))
    assert await openai.count_tokens(ask(tools=(WEATHER,))) == 21
    assert far.asked[0].body["tools"][0]["function"]["name"] == "weather"


async def test_count_when_nobody_tells_then_is_an_upper_bound_and_asks_no_more(
    far: FakeUpstream, openai: Provider
) -> None:
    first = await openai.count_tokens(ask("naïve " * 10))
    asked = len(far.asked)
    assert first >= len(("naïve " * 10).encode())
    await openai.count_tokens(ask())
    assert len(far.asked) == asked


async def test_count_when_the_address_is_busy_then_fails_and_asks_again_later(
    far: FakeUpstream, openai: Provider
) -> None:
    far.on("/tokenize", as_json({"error": "busy"}, 503), as_json({"count": 3}))
    with pytest.raises(ProviderFailed):
        await openai.count_tokens(ask())
    assert await openai.count_tokens(ask()) == 3
