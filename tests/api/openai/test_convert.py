"""Conversion of OpenAI requests to completion specs."""

from typing import Any

import msgspec
import pytest

from appliance.api.openai.convert import (
    chat_spec,
    completion_specs,
    embedding_request,
    response_tier,
    wants_usage,
)
from appliance.api.openai.schemas import ChatBody, CompletionBody, EmbeddingBody
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import (
    Message,
    MessageRole,
    OutputKind,
    RawPrompt,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.domain.tasks import Priority
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


def test_chat_when_only_required_fields_then_nothing_else_is_filled_in() -> None:
    spec = spec_of(model="starter")
    assert spec.model == "starter"
    assert spec.messages == (Message(MessageRole.USER, "hi"),)
    assert spec.sampling == Sampling()
    assert set(msgspec.structs.astuple(spec.sampling)) == {None, ()}
    assert spec.max_tokens is None
    assert spec.priority is Priority.INTERACTIVE
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
    assert spec.priority is Priority.BATCH
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
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        (
            {"role": "user", "content": [{"type": "input_audio"}]},
            "messages[0].content[0].input_audio",
        ),
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
        (None, ToolChoice()),
        ("auto", ToolChoice(ToolUse.AUTO)),
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


def test_completion_when_only_required_fields_then_no_length_is_filled_in() -> None:
    (spec,) = plain_specs(prompt="def f(", suffix="return", logprobs=2, stop=["a", "b"])
    assert spec.raw == RawPrompt("def f(", "return")
    assert spec.messages == ()
    assert (spec.max_tokens, spec.sampling.logprobs, spec.sampling.stop) == (None, 2, ("a", "b"))


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
