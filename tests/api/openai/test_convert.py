"""Conversion of OpenAI requests to completion specs, and of completions to answers."""

import json
from typing import Any

import msgspec
import pytest

from appliance.api.openai.answers import (
    AnswerHeader,
    begin_answer,
    chat_answer,
    plain_answer,
    select_most_likely,
    sum_usage,
    system_fingerprint,
)
from appliance.api.openai.convert import (
    chat_spec,
    completion_specs,
    embedding_request,
    response_tier,
    wants_usage,
)
from appliance.api.openai.schemas import ChatBody, CompletionBody, EmbeddingBody
from appliance.api.openai.stream_chunks import ChatChunks, PlainChunks
from appliance.api.openai.stream_merge import CollectedCompletion
from appliance.domain.completions import CompletionReport, CompletionSpec, Urgency
from appliance.domain.messages import (
    Finished,
    FinishReason,
    Likelihood,
    Message,
    MessageRole,
    OutputKind,
    RawPrompt,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput

USER = {"role": "user", "content": "hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
HEAD = AnswerHeader("chatcmpl-1", 7, "starter", "fp_1")


def spec_of(**fields: Any) -> CompletionSpec:
    body = msgspec.convert({"messages": [USER]} | fields, ChatBody, strict=False)
    return chat_spec(body)


def plain_specs(**fields: Any) -> list[CompletionSpec]:
    return completion_specs(msgspec.convert({"prompt": "a"} | fields, CompletionBody))


def refusal(**fields: Any) -> dict[str, Any]:
    """Field and reason of the error of this chat."""
    with pytest.raises(InvalidInput) as refused:
        spec_of(**fields)
    return refused.value.details


def test_chat_when_only_required_fields_then_the_defaults_of_openai() -> None:
    spec = spec_of(model="starter")
    assert spec.model == "starter"
    assert spec.messages == (Message(MessageRole.USER, "hi"),)
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    assert (sampling.min_p, sampling.logprobs, sampling.seed) == (0.05, None, None)
    assert spec.max_tokens is None
    assert spec.urgency is Urgency.INTERACTIVE
    assert spec.may_cache


def test_chat_when_all_options_then_all_are_in_the_spec() -> None:
    spec = spec_of(
        model="a/b",
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0,
        repeat_penalty=1.1,
        frequency_penalty=-2,
        presence_penalty=2,
        logit_bias={"5": -100, "6": 3},
        logprobs=True,
        top_logprobs=3,
        seed=-4,
        stop="END",
        max_completion_tokens=9,
        max_tokens=5,
        service_tier="flex",
        cache=False,
        context_shift=True,
        provider="openai",
    )
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 7, 0)
    assert (sampling.repeat_penalty, sampling.frequency_penalty) == (1.1, -2)
    assert (sampling.presence_penalty, sampling.seed, sampling.stop) == (2, -4, ("END",))
    assert sampling.logit_bias == ((5, -100), (6, 3))
    assert sampling.logprobs == 3
    assert spec.max_tokens == 9
    assert spec.urgency is Urgency.BATCH
    assert not spec.may_cache
    assert spec.context_shift
    assert spec.provider == "openai"


def test_messages_when_of_every_role_then_converted() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    spec = spec_of(
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "system", "content": [{"type": "text", "text": each} for each in "ab"]},
            {"role": "user", "content": "x", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "refusal": "never"},
            {"role": "assistant", "function_call": {"name": "g", "arguments": "{1}"}},
            {"role": "function", "name": "g", "content": "43"},
        ]
    )
    assert spec.messages == (
        Message(MessageRole.SYSTEM, "be kind"),
        Message(MessageRole.SYSTEM, "a\nb"),
        Message(MessageRole.USER, "x"),
        Message(MessageRole.ASSISTANT, "", (ToolCall("c1", "f", "{}"),)),
        Message(MessageRole.TOOL, "42", tool_call_id="c1"),
        Message(MessageRole.ASSISTANT, "no"),
        Message(MessageRole.ASSISTANT, "never"),
        Message(MessageRole.ASSISTANT, "", (ToolCall("call_7", "g", "{1}"),)),
        Message(MessageRole.TOOL, "43", tool_call_id="call_7"),
    )


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "king", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "file"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[0].name"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]},
            "messages[0].tool_calls[0].function",
        ),
    ],
)
def test_messages_when_one_is_invalid_then_its_field(message: dict[str, Any], field: str) -> None:
    assert refusal(messages=[message])["field"] == field


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice(ToolUse.NONE)),
        ("required", ToolChoice(ToolUse.REQUIRED)),
        ({"type": "function", "function": {"name": "time"}}, ToolChoice(ToolUse.REQUIRED, "time")),
    ],
)
def test_tools_when_a_choice_is_made_then_it_is_asked(choice: Any, expected: ToolChoice) -> None:
    spec = spec_of(tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool.name for tool in spec.tools] == ["weather", "time"]
    assert spec.tools[0].parameters == WEATHER["function"]["parameters"]  # pyright: ignore[reportArgumentType, reportIndexIssue]
    assert spec.tool_choice == expected
    alone = spec_of(tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False)
    assert not alone.tool_choice.parallel


def test_tools_when_some_are_allowed_then_only_those() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    spec = spec_of(tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool.name for tool in spec.tools] == ["time"]
    assert spec.tool_choice == ToolChoice(ToolUse.REQUIRED)


@pytest.mark.parametrize("choice", [None, "auto", "none", {"name": "time"}])
def test_functions_when_sent_then_tools_one_at_a_time(choice: Any) -> None:
    functions = [WEATHER["function"], TIME["function"]]
    spec = spec_of(functions=functions, function_call=choice)
    assert [tool.name for tool in spec.tools] == ["weather", "time"]
    assert not spec.tool_choice.parallel
    assert spec.tool_choice.name == ("time" if isinstance(choice, dict) else "")


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ({"type": "text"}, OutputKind.TEXT),
        ({"type": "json_object"}, OutputKind.JSON),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}},
            OutputKind.SCHEMA,
        ),
    ],
)
def test_output_when_a_format_is_named_then_it_is_asked(
    wanted: dict[str, Any], kind: OutputKind
) -> None:
    output = spec_of(response_format=wanted).output
    assert output.kind is kind
    assert (output.schema == {}) is (kind is OutputKind.SCHEMA)


def test_output_when_a_grammar_is_sent_then_it_is_asked() -> None:
    assert spec_of(grammar='root ::= "x"').output.grammar == 'root ::= "x"'
    assert plain_specs(grammar='root ::= "x"')[0].output.kind is OutputKind.GRAMMAR


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"store": True}, "store"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, "grammar"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TIME, TIME]}, "tools"),
        ({"tools": [TIME], "functions": [{"name": "x"}]}, "functions"),
        ({"functions": [{"name": "x"}], "function_call": "always"}, "function_call"),
        ({"functions": [{"name": "x"}], "function_call": {"name": "y"}}, "function_call.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        (
            {
                "tools": [TIME],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "x"}}]},
                },
            },
            "tool_choice.allowed_tools.tools",
        ),
        (
            {
                "tools": [TIME],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "none", "tools": []},
                },
            },
            "tool_choice.allowed_tools.mode",
        ),
    ],
)
def test_chat_when_it_can_not_be_done_then_the_field_is_named(
    fields: dict[str, Any], field: str
) -> None:
    assert refusal(**fields)["field"] == field


def test_chat_when_a_field_is_unknown_or_without_effect_then_ignored() -> None:
    plain = spec_of()
    assert plain == spec_of(
        user="u",
        store=False,
        reasoning_effort="low",
        verbosity="high",
        prediction={"type": "content", "content": "x"},
        prompt_cache_key="k",
        modalities=["text"],
        stream_options=None,
        whatever=[1],
    )


@pytest.mark.parametrize(
    ("tier", "served"), [(None, None), ("auto", "default"), ("flex", "flex"), ("batch", "flex")]
)
def test_tier_when_named_then_answered_as_it_was_served(tier: str | None, served: str) -> None:
    assert response_tier(ChatBody(messages=[], service_tier=tier)) == served


def test_stream_options_when_nothing_is_streamed_then_refused() -> None:
    options: dict[str, Any] = {"messages": [], "stream_options": {"include_usage": True}}
    with pytest.raises(InvalidInput, match="stream_options"):
        wants_usage(msgspec.convert(options, ChatBody))
    assert wants_usage(msgspec.convert(options | {"stream": True}, ChatBody))


def test_completion_when_only_required_fields_then_sixteen_tokens() -> None:
    (spec,) = plain_specs(prompt="def f(", suffix="return", logprobs=2, stop=["a", "b"])
    assert spec.raw == RawPrompt("def f(", "return")
    assert spec.messages == ()
    assert (spec.max_tokens, spec.sampling.logprobs, spec.sampling.stop) == (16, 2, ("a", "b"))


def test_completion_when_several_prompts_then_one_ask_each() -> None:
    specs = plain_specs(prompt=["a", "b"], n=2)
    assert [spec.raw for spec in specs] == [RawPrompt("a"), RawPrompt("b")]


def test_completion_when_best_of_then_logprobs_are_requested() -> None:
    assert plain_specs(best_of=3)[0].sampling.logprobs == 0
    assert plain_specs(best_of=1)[0].sampling.logprobs is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"store": True}, "store"),
    ],
)
def test_completion_when_it_can_not_be_done_then_the_field_is_named(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        plain_specs(**fields)
    assert refused.value.details["field"] == field


@pytest.mark.parametrize(("given", "texts"), [("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_embedding_when_texts_then_all_of_them(given: Any, texts: tuple[str, ...]) -> None:
    body = msgspec.convert({"input": given, "model": "m", "dimensions": 8}, EmbeddingBody)
    asked = embedding_request(body)
    assert (asked.model, asked.texts, asked.dimensions) == ("m", texts, 8)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input": [1]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_embedding_when_it_can_not_be_done_then_the_field_is_named(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        embedding_request(msgspec.convert({"model": "m"} | fields, EmbeddingBody))
    assert refused.value.details["field"] == field


def likelihood(text: str, logprob: float) -> TokenLikelihood:
    token = Likelihood(text, logprob, text.encode())
    return TokenLikelihood(token, (token, Likelihood("?", float("-inf"), b"?")))


def collected(
    text: str = "Hi",
    reason: FinishReason = FinishReason.STOP,
    logprob: float = -0.5,
    calls: tuple[ToolCall, ...] = (),
) -> CollectedCompletion:
    usage = TokenUsage(10, 2, 8)
    return CollectedCompletion(
        text, [likelihood("Hi", logprob)], list(calls), Finished(reason, usage)
    )


def encoded(answer: Any) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(answer))


def test_chat_answer_when_encoded_then_the_shape_of_openai() -> None:
    answer = encoded(chat_answer(HEAD, [collected()], logprobs=True, legacy=False))
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "starter",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [
                        token
                        | {
                            "top_logprobs": [
                                token,
                                {"token": "?", "logprob": -9999.0, "bytes": [63]},
                            ]
                        }
                    ],
                    "refusal": None,
                },
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_chat_answer_when_a_tool_is_asked_for_then_as_the_client_knows_it(legacy: bool) -> None:
    call = ToolCall("call_1", "weather", '{"city": "Bern"}')
    done = collected("", FinishReason.TOOL_CALLS, calls=(call,))
    (choice,) = encoded(chat_answer(HEAD, [done], logprobs=False, legacy=legacy))["choices"]
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    message = choice["message"]
    assert message["content"] is None
    if legacy:
        assert (message["function_call"], choice["finish_reason"]) == (function, "function_call")
        assert "tool_calls" not in message
    else:
        assert message["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
        assert choice["finish_reason"] == "tool_calls"


def test_plain_answer_when_best_of_then_the_most_likely_of_each_prompt() -> None:
    groups = [
        [collected("a", logprob=-3), collected("b", logprob=-1)],
        [collected("c", logprob=-1), collected("d", logprob=-2)],
    ]
    answer = plain_answer(HEAD, groups, 1, logprobs=True, echoes=["1", "2"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "1b"), (1, "2c")]
    encoded_answer = encoded(answer)
    assert encoded_answer["object"] == "text_completion"
    assert encoded_answer["choices"][0]["logprobs"] == {
        "tokens": ["Hi"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"Hi": -1.0, "?": -9999.0}],
        "text_offset": [0],
    }
    assert encoded_answer["usage"]["prompt_tokens"] == 20
    assert encoded_answer["usage"]["completion_tokens"] == 8


def test_most_likely_when_there_are_no_logprobs_then_still_some() -> None:
    silent = CollectedCompletion("x", [], [], Finished(FinishReason.STOP, TokenUsage()))
    assert select_most_likely([silent, collected()], 1)[0].text == "Hi"


def test_usage_when_choices_share_a_prompt_then_it_counts_once() -> None:
    used = [TokenUsage(10, 1, 4), TokenUsage(10, 2, 10), TokenUsage(5, 3, 0), TokenUsage(5, 4, 5)]
    assert sum_usage(used, 2) == TokenUsage(15, 10, 4)
    assert sum_usage(used[:2], 2) == TokenUsage(10, 3, 4)


def test_fingerprint_when_the_model_differs_then_it_does() -> None:
    first = system_fingerprint("llama_cpp", "starter")
    assert first == system_fingerprint("llama_cpp", "starter")
    assert first != system_fingerprint("llama_cpp", "other")
    report = CompletionReport("llama_cpp", "starter")
    assert begin_answer("chatcmpl", None).header(report).fingerprint == first


def chunk(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    return json.loads(data[6:])


HARD = 'a"b\\c\n\u2028\u00e9\U0001f412\x00'


@pytest.mark.parametrize("with_usage", [False, True])
def test_chat_chunks_when_written_then_the_shape_of_openai(with_usage: bool) -> None:
    chunks = ChatChunks(HEAD, with_usage=with_usage, logprobs=True, legacy=False)
    first, piece = chunk(chunks.begin(0)), chunk(chunks.event(3, TextDelta(HARD)))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert piece["object"] == "chat.completion.chunk"
    assert (piece["id"], piece["created"], piece["model"]) == ("chatcmpl-1", 7, "starter")
    assert piece["choices"] == [
        {
            "index": 3,
            "delta": {"content": HARD},
            "logprobs": {"content": [], "refusal": None},
            "finish_reason": None,
        }
    ]
    assert ("usage" in piece) is with_usage
    assert piece.get("usage") is None
    last = chunk(chunks.event(3, Finished(FinishReason.LENGTH, TokenUsage())))
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "length"
    used = chunk(chunks.usage(TokenUsage(1, 2, 0)))
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 3


def test_chat_chunks_when_tools_are_called_then_each_has_its_index() -> None:
    chunks = ChatChunks(HEAD, with_usage=False, logprobs=False, legacy=False)
    calls = [
        chunk(chunks.event(choice, ToolCall(f"c{at}", "f", "{}")))["choices"][0]["delta"]
        for at, choice in enumerate([0, 0, 1])
    ]
    assert [call["tool_calls"][0]["index"] for call in calls] == [0, 1, 0]
    assert calls[1]["tool_calls"][0] == {
        "index": 1,
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }


def test_chat_chunks_when_the_client_is_old_then_function_call() -> None:
    chunks = ChatChunks(HEAD, with_usage=False, logprobs=False, legacy=True)
    delta = chunk(chunks.event(0, ToolCall("c", "f", "{}")))["choices"][0]["delta"]
    assert delta == {"function_call": {"name": "f", "arguments": "{}"}}
    last = chunk(chunks.event(0, Finished(FinishReason.TOOL_CALLS, TokenUsage())))
    assert last["choices"][0]["finish_reason"] == "function_call"


def test_plain_chunks_when_written_then_offsets_go_on() -> None:
    chunks = PlainChunks(
        AnswerHeader("cmpl-1", 7, "m", "fp", "flex"), ["", "say: "], with_usage=False, logprobs=True
    )
    assert chunks.begin(0) == b""
    assert chunk(chunks.begin(1))["choices"][0]["text"] == "say: "
    pieces = [
        chunk(chunks.event(0, TextDelta(text, (likelihood(text, -1),))))["choices"][0]
        for text in ("ab", "c")
    ]
    assert [piece["logprobs"]["text_offset"] for piece in pieces] == [[0], [2]]
    last = chunk(chunks.event(0, Finished(FinishReason.STOP, TokenUsage())))
    assert last["object"] == "text_completion"
    assert last["service_tier"] == "flex"
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
