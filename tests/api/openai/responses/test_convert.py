"""Conversion of /v1/responses bodies to completion specs, and errors of invalid ones."""

from typing import Any

import msgspec
import pytest

from appliance.api.openai.responses.convert import convert_response
from appliance.api.openai.responses.schemas import ResponseBody
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import (
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.domain.tasks import Priority
from appliance.errors import InvalidInput

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "of a city", "parameters": SCHEMA}
TIME = {"type": "function", "name": "time", "parameters": None, "strict": True}
HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}


def spec(**fields: Any) -> CompletionSpec:
    return convert_response(msgspec.convert({"input": "hi"} | fields, ResponseBody)).spec


def roles(converted: CompletionSpec) -> list[str]:
    return [each.role.value for each in converted.messages]


def test_spec_when_only_input_then_nothing_else_is_filled_in() -> None:
    converted = spec()
    assert converted.model is None
    assert converted.max_tokens is None
    assert converted.messages == (Message(MessageRole.USER, "hi"),)
    assert converted.sampling == Sampling()
    assert converted.tool_choice == ToolChoice()
    assert converted.priority is Priority.INTERACTIVE
    assert not converted.context_shift


def test_spec_when_options_then_used() -> None:
    converted = spec(
        model="starter",
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        truncation="auto",
        service_tier="flex",
    )
    assert (converted.model, converted.max_tokens, converted.context_shift) == ("starter", 9, True)
    assert (converted.sampling.temperature, converted.sampling.top_p) == (0.0, 0.5)
    assert converted.priority is Priority.BATCH


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_logprobs_when_asked_for_then_as_many(fields: dict[str, Any], expected: int | None) -> None:
    assert spec(**fields).sampling.logprobs == expected


def test_input_when_items_then_messages_in_their_order() -> None:
    converted = spec(
        instructions="be brief",
        input=[
            {"role": "developer", "content": "in English"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "let me see", "annotations": []}],
            },
            CALL,
            OUTPUT,
            HI,
        ],
    )
    assert roles(converted) == ["system", "system", "user", "assistant", "tool", "user"]
    assert converted.messages[3] == Message(
        MessageRole.ASSISTANT, "let me see", (ToolCall("c1", "weather", '{"city":"Oslo"}'),)
    )
    assert converted.messages[4] == Message(MessageRole.TOOL, "rain", tool_call_id="c1")


def test_input_when_calls_are_parallel_then_one_turn() -> None:
    second = CALL | {"call_id": "c2"}
    answers = [OUTPUT, OUTPUT | {"call_id": "c2", "output": [{"type": "input_text", "text": "x"}]}]
    converted = spec(input=[HI, CALL, second, *answers])
    assert roles(converted) == ["user", "assistant", "tool", "tool"]
    assert [call.id for call in converted.messages[1].tool_calls] == ["c1", "c2"]


def test_tools_when_functions_then_offered() -> None:
    assert spec(tools=[WEATHER, TIME]).tools == (
        Tool("weather", "of a city", SCHEMA),
        Tool("time", strict=True),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice(ToolUse.AUTO)),
        ("none", ToolChoice(ToolUse.NONE)),
        ("required", ToolChoice(ToolUse.REQUIRED)),
        ({"type": "function", "name": "time"}, ToolChoice(ToolUse.REQUIRED, "time")),
    ],
)
def test_tool_choice_when_given_then_its_meaning(given: Any, expected: ToolChoice) -> None:
    assert spec(tools=[WEATHER, TIME], tool_choice=given).tool_choice == expected


def test_tool_choice_when_some_are_allowed_then_the_others_are_left_out() -> None:
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "time"}],
    }
    converted = spec(tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False)
    assert [tool.name for tool in converted.tools] == ["time"]
    assert converted.tool_choice == ToolChoice(ToolUse.REQUIRED, parallel=False)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, OutputFormat()),
        ({"type": "json_object"}, OutputFormat(OutputKind.JSON)),
        (
            {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True},
            OutputFormat(OutputKind.SCHEMA, SCHEMA, name="city", strict=True),
        ),
    ],
)
def test_text_format_when_given_then_the_answer_follows_it(
    form: dict[str, Any], expected: OutputFormat
) -> None:
    assert spec(text={"format": form, "verbosity": "low"}).output == expected


def test_unknown_and_harmless_fields_when_sent_then_ignored() -> None:
    harmless: dict[str, Any] = {
        "store": False,
        "background": False,
        "reasoning": {"effort": "low"},
        "metadata": {"a": "b"},
        "stream_options": {"include_obfuscation": True},
        "max_tool_calls": 3,
        "of_next_year": 1,
    }
    assert spec(**harmless) == spec()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "storing": ({"store": True}, "store"),
    "an earlier response": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "a conversation": ({"conversation": {"id": "c"}}, "conversation"),
    "the background": ({"background": True}, "background"),
    "a prompt template": ({"prompt": {"id": "p"}}, "prompt"),
    "compaction": ({"context_management": [{"type": "compaction"}]}, "context_management"),
    "no input": ({"input": []}, "input"),
    "only instructions": ({"input": [], "instructions": "x"}, "input"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    "a part without text": (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        "input[0].content[0].text",
    ),
    "an item whose type is an object": ({"input": [{"type": {"a": 1}}]}, "input[0].type"),
    "an unknown role": ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    "an item that is stored": ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    "a call without a name": (
        {"input": [HI, {"type": "function_call", "call_id": "c", "arguments": ""}]},
        "input[1].name",
    ),
    "an output of nothing": ({"input": [OUTPUT]}, "input"),
    "a custom tool without a name": ({"tools": [{"type": "custom"}]}, "tools[0].name"),
    "a grammar without a definition": (
        {"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]},
        "tools[0].format",
    ),
    "a namespace without tools": (
        {"tools": [{"type": "namespace", "name": "x", "description": ""}]},
        "tools[0].tools",
    ),
    "a function of a namespace without a name": (
        {
            "tools": [
                {
                    "type": "namespace",
                    "name": "x",
                    "description": "",
                    "tools": [{"type": "function"}],
                }
            ]
        },
        "tools[0].tools[0].name",
    ),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "two tools of one name": ({"tools": [WEATHER, WEATHER]}, "tools"),
    "an odd choice": ({"tools": [WEATHER], "tool_choice": "some"}, "tool_choice"),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "a choice of an unknown tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
        "tool_choice.name",
    ),
    "a choice of the vendor's": (
        {"tools": [WEATHER], "tool_choice": {"type": "mcp"}},
        "tool_choice.type",
    ),
    "a choice of a tool that was left out": (
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        "tool_choice.type",
    ),
    "a choice among tools that were left out": (
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        "tool_choice",
    ),
    "a choice of a custom tool that is a function": (
        {"tools": [WEATHER], "tool_choice": {"type": "custom", "name": "weather"}},
        "tool_choice.name",
    ),
    "allowed tools that were left out, one required": (
        {
            "tools": [{"type": "web_search"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "web_search"}],
            },
        },
        "tool_choice.mode",
    ),
    "unknown tools allowed": (
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "x"}]},
        },
        "tool_choice.tools[0].name",
    ),
    "allowed tools of a wrong type": (
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 1}},
        "tool_choice.tools",
    ),
    "a schema without a schema": (
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        "text.format.schema",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ask_when_something_is_not_possible_then_the_field_is_named(name: str) -> None:
    fields, field = REFUSED[name]
    with pytest.raises(InvalidInput) as refused:
        spec(**fields)
    assert refused.value.details["field"] == field
    assert refused.value.message.startswith(field)
