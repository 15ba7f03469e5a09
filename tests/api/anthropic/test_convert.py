"""Conversion of /v1/messages bodies to completion specs, and errors of invalid ones."""

from typing import Any

import msgspec
import pytest

from appliance.api.anthropic.convert import convert_message
from appliance.api.anthropic.schemas import MessagesBody
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
from appliance.errors import InvalidInput

HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}


def spec_of(**fields: Any) -> CompletionSpec:
    body = {"model": "starter", "max_tokens": 5, "messages": [HI]} | fields
    return convert_message(msgspec.convert(body, MessagesBody)).spec


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def test_spec_when_only_required_fields_then_defaults() -> None:
    spec = spec_of()
    assert spec.model == "starter"
    assert spec.max_tokens == 5
    assert spec.messages == (Message(MessageRole.USER, "hi"),)
    assert spec.sampling == Sampling()
    assert spec.tools == ()
    assert spec.output == OutputFormat()


def test_spec_when_sampling_options_then_used() -> None:
    sampling = spec_of(temperature=0, top_p=0.5, top_k=3, stop_sequences=["END", "\n"]).sampling
    assert sampling.temperature == 0.0
    assert sampling.top_p == 0.5
    assert sampling.top_k == 3
    assert sampling.stop == ("END", "\n")


@pytest.mark.parametrize(
    "system", ["be brief", [text("be brief", cache_control={"type": "ephemeral"})]]
)
def test_system_when_a_string_or_blocks_then_the_first_message(system: Any) -> None:
    first, second = spec_of(system=system).messages
    assert first == Message(MessageRole.SYSTEM, "be brief")
    assert second.role is MessageRole.USER


@pytest.mark.parametrize("system", ["", [], None])
def test_system_when_empty_then_no_message(system: Any) -> None:
    assert len(spec_of(system=system).messages) == 1


def test_turn_when_of_several_texts_then_paragraphs() -> None:
    turns = [{"role": "user", "content": [text("one"), text(""), text("two")]}]
    assert spec_of(messages=turns).messages == (Message(MessageRole.USER, "one\n\ntwo"),)


def test_turns_when_of_the_same_side_then_one_message() -> None:
    turns = [HI, {"role": "user", "content": "there"}]
    assert spec_of(messages=turns).messages == (Message(MessageRole.USER, "hi\n\nthere"),)


def test_tools_when_used_before_then_calls_and_results() -> None:
    turns = [
        HI,
        {"role": "assistant", "content": [text("let me see"), USE]},
        {"role": "user", "content": [RESULT, text("and?")]},
    ]
    assert spec_of(messages=turns).messages[1:] == (
        Message(
            MessageRole.ASSISTANT,
            "let me see",
            (ToolCall("toolu_1", "weather", '{"city":"Oslo"}'),),
        ),
        Message(MessageRole.TOOL, "rain", tool_call_id="toolu_1"),
        Message(MessageRole.USER, "and?"),
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("boom", "The tool failed: boom"),
        ([text("bo"), text("om")], "The tool failed: bo\n\nom"),
        (None, "The tool failed: "),
    ],
)
def test_tool_result_when_an_error_then_the_text_says_so(content: Any, told: str) -> None:
    failed = RESULT | {"content": content, "is_error": True}
    turns = [HI, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [failed]}]
    assert spec_of(messages=turns).messages[-1].content == told


def test_thinking_when_passed_back_then_dropped() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    turns = [HI, {"role": "assistant", "content": [*thoughts, text("yes")]}, HI]
    assert spec_of(messages=turns).messages[1] == Message(MessageRole.ASSISTANT, "yes")
    only_thoughts = [HI, {"role": "assistant", "content": thoughts}, HI]
    assert spec_of(messages=only_thoughts).messages == (Message(MessageRole.USER, "hi\n\nhi"),)


def test_system_turn_when_among_the_messages_then_it_stays_there() -> None:
    turns = [HI, {"role": "system", "content": "now be brief"}, HI]
    assert [each.role.value for each in spec_of(messages=turns).messages] == [
        "user",
        "system",
        "user",
    ]


@pytest.mark.parametrize("more", [{}, {"type": "custom", "strict": True}])
def test_tools_when_of_the_clients_own_then_offered(more: dict[str, Any]) -> None:
    tool = Tool("weather", "of a city", SCHEMA, more.get("strict"))
    assert spec_of(tools=[WEATHER | more]).tools == (tool,)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"type": "auto"}, ToolChoice(ToolUse.AUTO)),
        (None, ToolChoice()),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            ToolChoice(ToolUse.AUTO, parallel=False),
        ),
        ({"type": "any"}, ToolChoice(ToolUse.REQUIRED)),
        ({"type": "tool", "name": "weather"}, ToolChoice(ToolUse.REQUIRED, "weather")),
        ({"type": "none"}, ToolChoice(ToolUse.NONE)),
    ],
)
def test_tool_choice_when_given_then_its_meaning(
    body: dict[str, Any], expected: ToolChoice
) -> None:
    assert spec_of(tools=[WEATHER], tool_choice=body).tool_choice == expected


def test_output_config_when_a_schema_then_the_answer_follows_it() -> None:
    config = {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}
    expected = OutputFormat(OutputKind.SCHEMA, SCHEMA, strict=True)
    assert spec_of(output_config=config).output == expected


def test_unknown_fields_when_sent_then_ignored() -> None:
    later: dict[str, Any] = {
        "speed": "fast",
        "service_tier": "auto",
        "thinking": {"type": "adaptive"},
        "cache_control": {"type": "ephemeral"},
        "metadata": {"user_id": "u"},
        "of_next_year": 1,
    }
    assert spec_of(**later) == spec_of()


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an image without a source": (
        {"messages": [{"role": "user", "content": [text("a"), {"type": "image"}]}]},
        "messages[0].content[1].source",
    ),
    "an audio": (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        "messages[0].content[0].type",
    ),
    "a block without a type": (
        {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages[0].content[0].type",
    ),
    "a block whose type is an object": (
        {"messages": [{"role": "user", "content": [{"type": {}}]}]},
        "messages[0].content[0].type",
    ),
    "a text block without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    "a call by the user": (
        {"messages": [{"role": "user", "content": [USE]}]},
        "messages[0].content[0].type",
    ),
    "a call whose input is text": (
        {"messages": [HI, {"role": "assistant", "content": [USE | {"input": "x"}]}]},
        "messages[1].content[0].input",
    ),
    "an empty turn": ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
    "a result of nothing": ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages"),
    "a begun answer": ({"messages": [HI, {"role": "assistant", "content": "{"}]}, "messages"),
    "an image for the system": ({"system": [IMAGE]}, "system[0].type"),
    "a choice of a tool that was left out": (
        {
            "tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "tool", "name": "web_search"},
        },
        "tool_choice.name",
    ),
    "a choice among tools that were left out": (
        {
            "tools": [{"type": "web_search_20250305", "name": "web_search"}],
            "tool_choice": {"type": "any"},
        },
        "tool_choice",
    ),
    "a computer without a screen": (
        {"tools": [{"type": "computer_20250124", "name": "computer"}]},
        "tools[0].display_width_px",
    ),
    "a call after a block that was left out": (
        {
            "messages": [
                HI,
                {"role": "assistant", "content": [{"type": "fallback"}, USE | {"input": "x"}]},
            ]
        },
        "messages[1].content[1].input",
    ),
    "a tool without a schema": ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    "a tool with an odd name": ({"tools": [WEATHER | {"name": "a b"}]}, "tools[0].name"),
    "two tools of one name": ({"tools": [WEATHER, WEATHER]}, "tools"),
    "a choice without tools": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "a choice of an unknown tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice.name",
    ),
    "a container": ({"container": "c1"}, "container"),
    "a stored conversation": ({"thread": {"type": "create"}}, "thread"),
    "MCP servers": ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ask_when_something_is_not_possible_then_the_field_is_named(name: str) -> None:
    fields, field = REFUSED[name]
    with pytest.raises(InvalidInput) as refused:
        spec_of(**fields)
    assert refused.value.details["field"] == field
    assert refused.value.message.startswith(field)
