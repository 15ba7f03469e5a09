"""Tools with a type of their own, and what the vendor's tools left in a history (F11, F41)."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from appliance.api.anthropic.convert import ConvertedRequest, convert_message
from appliance.api.anthropic.schemas import MessagesBody
from appliance.domain.messages import Finished, FinishReason, Message, MessageRole, ToolCall
from tests.api.application import settings_with
from tests.api.scripted_completions import USAGE, ScriptedApi, open_scripted

PATH = "/v1/messages"
HI: dict[str, Any] = {"role": "user", "content": "hi"}
WEATHER = {"name": "weather", "input_schema": {"type": "object"}}
SCREEN = {"display_width_px": 800, "display_height_px": 600}
EDITS = {"command", "path", "file_text", "old_str", "new_str", "insert_line", "insert_text",
         "view_range"}  # fmt: skip
CLIENT_RUN: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "bash_20241022": ({"name": "bash"}, {"command", "restart"}, set()),
    "bash_20250124": ({"name": "bash"}, {"command", "restart"}, set()),
    "text_editor_20241022": ({"name": "str_replace_editor"}, EDITS, {"view", "undo_edit"}),
    "text_editor_20250124": ({"name": "str_replace_editor"}, EDITS, {"view", "undo_edit"}),
    "text_editor_20250728": ({"name": "str_replace_based_edit_tool"}, EDITS, {"str_replace"}),
    "memory_20250818": ({"name": "memory"}, {*EDITS, "old_path", "new_path"}, {"rename"}),
    "computer_20241022": (
        {"name": "computer", **SCREEN}, {"action", "coordinate", "text"}, {"key"},
    ),
    "computer_20251124": (
        {"name": "computer", "enable_zoom": True, **SCREEN},
        {"action", "coordinate", "text", "start_coordinate", "scroll_direction", "scroll_amount",
         "duration", "region"},
        {"key", "scroll", "zoom"},
    ),
    "bash_20991231": ({"name": "bash"}, {"command", "restart"}, set()),
}  # fmt: skip
LEFT_OUT: list[dict[str, Any]] = [
    {"type": "web_search_20250305", "name": "web_search"},
    {"type": "web_fetch_20260318", "name": "web_fetch"},
    {"type": "code_execution_20250825", "name": "code_execution"},
    {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
    {"type": "mcp_toolset", "mcp_server_name": "docs"},
    {"type": "computer_toolset_20260801"},
    {"type": "advisor_20260301", "name": "advisor", "model": "x"},
    {"type": "of_next_year"},
]


def convert(**fields: Any) -> ConvertedRequest:
    body = {"model": "starter", "max_tokens": 5, "messages": [HI]} | fields
    return convert_message(msgspec.convert(body, MessagesBody))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedApi]:
    async with open_scripted(tmp_path_factory.mktemp("server"), settings_with()) as api:
        yield api


@pytest.mark.parametrize("kind", CLIENT_RUN)
def test_tool_when_the_client_runs_it_then_a_function_with_its_inputs(kind: str) -> None:
    fields, properties, words = CLIENT_RUN[kind]
    converted = convert(
        tools=[{"type": kind, **fields}], tool_choice={"type": "tool", "name": fields["name"]}
    )
    (tool,) = converted.spec.tools
    schema: Any = tool.parameters
    assert tool.name == fields["name"]
    assert set(schema["properties"]) == properties
    assert set(schema["required"]) <= properties
    first = next(iter(schema["properties"].values()))
    assert words <= set(first.get("enum", ()))
    assert converted.ignored == []


def test_text_editor_when_it_is_new_then_it_undoes_nothing() -> None:
    tools = [{"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}]
    schema: Any = convert(tools=tools).spec.tools[0].parameters
    assert "undo_edit" not in schema["properties"]["command"]["enum"]


def test_tool_when_its_type_is_unknown_but_it_has_a_schema_then_a_function() -> None:
    tools = [WEATHER | {"type": "of_next_year"}]
    assert [tool.name for tool in convert(tools=tools).spec.tools] == ["weather"]


@pytest.mark.parametrize("tool", LEFT_OUT, ids=lambda tool: tool["type"])
def test_tool_when_a_server_would_run_it_then_it_is_left_out(tool: dict[str, Any]) -> None:
    converted = convert(tools=[WEATHER, tool], tool_choice={"type": "any"})
    assert [each.name for each in converted.spec.tools] == ["weather"]
    assert [each.place for each in converted.ignored] == ["tools[1]"]


READ: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a search": (
        [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
                {"type": "web_search_result", "title": "X", "url": "http://x",
                 "encrypted_content": "aaa", "page_age": None}]},
        ],
        '[used web_search with {"query":"x"}]\n\n[result]\nX\nhttp://x',
    ),
    "code": (
        [{"type": "bash_code_execution_tool_result", "tool_use_id": "s", "content": {
            "type": "bash_code_execution_result", "stdout": "1", "stderr": "", "return_code": 0}}],
        "[result]\n1",
    ),
    "MCP": (
        [
            {"type": "mcp_tool_use", "id": "m", "name": "find", "server_name": "s", "input": {}},
            {"type": "mcp_tool_result", "tool_use_id": "m", "content": [
                {"type": "text", "text": "page 3"}]},
            {"type": "mcp_tool_result", "tool_use_id": "m", "content": "page 4"},
        ],
        "[used find with {}]\n\n[result]\npage 3\n\n[result]\npage 4",
    ),
    "a summary": ([{"type": "compaction", "content": "so far"}], "so far"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_block_when_it_can_be_read_then_text_of_the_assistant(name: str) -> None:
    blocks, text = READ[name]
    turns = [HI, {"role": "assistant", "content": blocks}, HI]
    converted = convert(messages=turns)
    assert converted.spec.messages[1] == Message(MessageRole.ASSISTANT, text)
    assert converted.ignored == []


@pytest.mark.parametrize(
    "block",
    [
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "compaction", "content": None, "encrypted_content": "aaa"},
        {"type": "container_upload", "file_id": "f"},
        {"type": "fallback"},
    ],
    ids=lambda block: block["type"],
)
def test_block_when_nothing_can_be_read_then_it_is_skipped_and_named(block: Any) -> None:
    turns = [HI, {"role": "assistant", "content": [block]}, HI]
    converted = convert(messages=turns)
    assert converted.spec.messages == (Message(MessageRole.USER, "hi\n\nhi"),)
    assert [each.place for each in converted.ignored] == ["messages[1].content[0]"]


def test_search_result_when_the_client_found_it_then_its_text() -> None:
    passages = [{"type": "text", "text": word} for word in ("one", "two")]
    found = {"type": "search_result", "source": "http://x", "title": "X", "content": passages}
    text = "X (http://x):\none\n\ntwo"
    asked = {"role": "user", "content": [found]}
    assert convert(messages=[asked]).spec.messages[0].content == text
    use: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [found]}
    turns: list[Any] = [
        HI,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    assert convert(messages=turns).spec.messages[-1].content == text


@pytest.mark.asyncio(loop_scope="module")
async def test_loop_when_the_client_runs_bash_then_its_call_and_the_header(
    scripted: ScriptedApi,
) -> None:
    call = ToolCall("toolu_1", "bash", '{"command": "ls"}')
    scripted.service.steps = [call, Finished(FinishReason.TOOL_CALLS, USAGE)]
    tools: Any = [{"type": "bash_20250124", "name": "bash"}, LEFT_OUT[0]]
    body: dict[str, Any] = {"model": "starter", "max_tokens": 5, "messages": [HI], "tools": tools}
    answer = await scripted.client.post(PATH, json=body)
    use = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}}
    assert answer.json()["content"] == [use]
    assert answer.headers["x-ignored-fields"] == "tools[1]"
    count = {name: body[name] for name in ("model", "messages", "tools")}
    for path, asked in ((PATH, body | {"stream": True}), (f"{PATH}/count_tokens", count)):
        again = await scripted.client.post(path, json=asked)
        assert again.headers["x-ignored-fields"] == "tools[1]"
