"""Items of the history that are neither messages nor function calls (F11, F41)."""

from typing import Any

import msgspec
import pytest

from appliance.api.openai.responses.convert import ConvertedRequest, convert_response
from appliance.api.openai.responses.schemas import ResponseBody
from appliance.domain.messages import Message, MessageRole, OutputFormat, OutputKind, ToolCall

HI: dict[str, Any] = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "name": "close", "parameters": {"type": "object"}}


def convert(*items: dict[str, Any], **fields: Any) -> ConvertedRequest:
    return convert_response(msgspec.convert({"input": [HI, *items]} | fields, ResponseBody))


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], ToolCall, str]] = {
    "custom": (
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "a\nb"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        ToolCall("c", "patch", '{"input":"a\\nb"}'), "done",
    ),
    "function of a namespace": (
        {"type": "function_call", "call_id": "c", "name": "close", "namespace": "agents",
         "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        ToolCall("c", "agents__close", "{}"), "done",
    ),
    "local shell": (
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "c", "status": "completed",
         "action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": None}},
        {"type": "local_shell_call_output", "call_id": "c", "output": "a.txt"},
        ToolCall("c", "local_shell", '{"command":["ls"]}'), "a.txt",
    ),
    "local shell of an old client": (
        {"type": "local_shell_call", "id": "c", "status": "completed",
         "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
        ToolCall("c", "local_shell", '{"command":["ls"]}'), "a.txt",
    ),
    "shell": (
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls", "x"]}},
        {"type": "shell_call_output", "call_id": "c", "output": [
            {"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
            {"stdout": "", "stderr": "no x", "outcome": {"type": "timeout"}}]},
        ToolCall("c", "shell", '{"commands":["ls","x"]}'),
        "a.txt\n[exit code 0]\nno x\n[timeout]",
    ),
    "patch": (
        {"type": "apply_patch_call", "call_id": "c", "status": "completed",
         "operation": {"type": "create_file", "path": "a", "diff": "+x"}},
        {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no"},
        ToolCall("c", "apply_patch", '{"type":"create_file","path":"a","diff":"+x"}'),
        "failed: no",
    ),
    "search": (
        {"type": "tool_search_call", "call_id": "c", "execution": "client",
         "arguments": {"query": "x"}},
        {"type": "tool_search_output", "call_id": "c", "tools": [TOOL]},
        ToolCall("c", "tool_search", '{"query":"x"}'), "Tools found: close",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_call_when_in_the_history_then_a_function_call_and_its_output(name: str) -> None:
    item, output, call, text = PAIRS[name]
    converted = convert(item, output)
    assert converted.spec.messages[1:] == (
        Message(MessageRole.ASSISTANT, "", (call,)),
        Message(MessageRole.TOOL, text, tool_call_id="c"),
    )
    assert converted.tools.ignored == []


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "an MCP call": (
        {"type": "mcp_call", "id": "m", "server_label": "docs", "name": "find",
         "arguments": "{}", "output": "page 3"},
        "[called find with {}: page 3]",
    ),
    "code": (
        {"type": "code_interpreter_call", "code": "print(1)", "outputs": [
            {"type": "logs", "logs": "1"}, {"type": "image", "url": "x"}]},
        "[ran code]\nprint(1)\n[output]\n1",
    ),
    "a file search": (
        {"type": "file_search_call", "queries": ["x"], "results": [
            {"filename": "a.md", "text": "found it"}]},
        "[found in files]\na.md: found it",
    ),
    "an image": (
        {"type": "image_generation_call", "id": "i", "result": "aGk=", "revised_prompt": "a cat"},
        "[generated an image: a cat]",
    ),
    "a message of another kind": (
        {"type": "agent_message", "role": "assistant",
         "content": [{"type": "output_text", "text": "ok"}]},
        "ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_item_when_it_can_be_read_then_text_of_the_assistant(name: str) -> None:
    item, text = SAID[name]
    assert convert(item, HI).spec.messages[1] == Message(MessageRole.ASSISTANT, text)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "x"}},
        {"type": "compaction", "encrypted_content": "gAAA"},
        {"type": "compaction_trigger"},
        {"type": "mcp_list_tools", "id": "m", "server_label": "docs", "tools": []},
        {"type": "mcp_approval_request", "id": "m", "name": "x", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "m", "approve": True},
        {"type": "computer_call", "call_id": "c", "action": {}},
        {"type": "computer_call_output", "call_id": "c", "output": {}},
        {"type": "code_interpreter_call", "code": None},
        {"type": "file_search_call", "queries": ["x"]},
        {"type": "tool_search_call", "execution": "server", "arguments": {}},
        {"type": "of_next_year", "content": 1},
    ],
    ids=lambda item: item["type"],
)
def test_item_when_nothing_can_be_read_then_it_is_skipped_and_named(item: dict[str, Any]) -> None:
    converted = convert(item, HI)
    assert [each.role for each in converted.spec.messages] == [MessageRole.USER] * 2
    assert [each.place for each in converted.tools.ignored] == ["input[1]"]


def test_tools_when_an_item_adds_them_then_they_are_offered_and_replace_others() -> None:
    changed = TOOL | {"description": "new"}
    more = {"type": "namespace", "name": "more", "description": "", "tools": [TOOL]}
    item = {"type": "additional_tools", "role": "developer",
            "tools": [changed, more, {"type": "web_search"}]}  # fmt: skip
    converted = convert(item, tools=[TOOL], tool_choice={"type": "function", "name": "close"})
    tools = [(each.name, each.description) for each in converted.spec.tools]
    assert tools == [("close", "new"), ("more__close", "")]
    assert [each.place for each in converted.tools.ignored] == ["input[1].tools[2]"]
    found = {"type": "tool_search_output", "call_id": None, "tools": [more]}
    assert [each.name for each in convert(found).spec.tools] == ["more__close"]


def test_configuration_when_an_item_updates_it_then_the_last_format_unless_one_is_given() -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
    update = {"type": "configuration_update", "text": {"format": form}}
    effort = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    assert convert(update, effort).spec.output.kind is OutputKind.SCHEMA
    text = {"type": "configuration_update", "text": {"format": {"type": "text"}}}
    assert convert(update, text).spec.output == OutputFormat()
    assert convert(update, text={"format": {"type": "text"}}).spec.output == OutputFormat()


def test_turn_when_very_many_items_then_one_message() -> None:
    items = [
        {"type": "function_call", "call_id": str(at), "name": "f", "arguments": "{}"}
        for at in range(20_000)
    ]
    _, turn = convert(*items).spec.messages
    assert len(turn.tool_calls) == 20_000
