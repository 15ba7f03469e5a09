"""Tools that are no functions: offered as such or left out; their calls restored (F11, F41)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from openai.types.responses import (
    ResponseCustomToolCallItem,
    ResponseOutputItem,
    ResponseStreamEvent,
    Tool,
)
from openai.types.responses.response_input_item import ResponseInputItem
from pydantic import TypeAdapter

from appliance.api.openai.responses.convert import ConvertedRequest, convert_response
from appliance.api.openai.responses.schemas import ResponseBody
from appliance.domain.messages import Finished, FinishReason, ToolCall, ToolChoice, ToolUse
from tests.api.application import settings_with
from tests.api.openai.responses.test_routes import events
from tests.api.scripted_completions import USAGE, ScriptedApi, open_scripted

PATH = "/v1/responses"
OBJECT: Any = {"type": "object", "properties": {}}
CLOSE = {"type": "function", "name": "close", "description": "close it", "parameters": OBJECT}
PATCH = {"type": "custom", "name": "patch", "description": "edit"}
AGENTS = {"type": "namespace", "name": "agents", "description": "helpers", "tools": [CLOSE, PATCH]}
PLAIN = {"type": "namespace", "name": "functions", "description": "all", "tools": [CLOSE]}
SEARCH = {"type": "tool_search", "execution": "client", "description": "find", "parameters": OBJECT}
LEFT_OUT: list[dict[str, Any]] = [
    {"type": "web_search", "external_web_access": False},
    {"type": "web_search_preview"},
    {"type": "mcp", "server_label": "docs", "server_url": "https://docs.test"},
    {"type": "image_generation"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1,
     "environment": "linux"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "tool_search"},
    {"type": "of_next_year"},
    {},
]  # fmt: skip


def convert(**fields: Any) -> ConvertedRequest:
    return convert_response(msgspec.convert({"input": "hi"} | fields, ResponseBody))


def offered(**fields: Any) -> list[str]:
    return [tool.name for tool in convert(**fields).spec.tools]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedApi]:
    async with open_scripted(tmp_path_factory.mktemp("server"), settings_with()) as api:
        yield api


@pytest.fixture
def scripted(opened: ScriptedApi) -> ScriptedApi:
    opened.service.reset()
    return opened


@pytest.mark.parametrize("tool", LEFT_OUT, ids=lambda tool: tool.get("type", "none"))
def test_tool_when_a_server_would_run_it_then_it_is_left_out(tool: dict[str, Any]) -> None:
    converted = convert(tools=[CLOSE, tool])
    assert [each.name for each in converted.spec.tools] == ["close"]
    assert [each.place for each in converted.tools.ignored] == ["tools[1]"]
    assert converted.tools.declarations == [CLOSE]


def test_custom_tool_when_declared_then_a_function_with_one_text() -> None:
    tool = PATCH | {"format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}}
    (function,) = convert(tools=[tool]).spec.tools
    assert function.name == "patch"
    assert function.description.startswith("edit")
    assert function.description.endswith("this lark grammar:\nstart: A")
    assert list(function.parameters["properties"]) == ["input"]


def test_namespace_when_declared_then_its_tools_carry_its_name() -> None:
    names = ["agents__close", "agents__patch"]
    assert offered(tools=[AGENTS]) == names
    assert offered(tools=[CLOSE, AGENTS]) == ["close", *names]
    assert offered(tools=[PLAIN]) == ["close"]


def test_namespace_when_it_holds_an_unknown_tool_then_the_rest_is_offered() -> None:
    converted = convert(tools=[AGENTS | {"tools": [CLOSE, {"type": "of_next_year", "name": {}}]}])
    assert [each.name for each in converted.spec.tools] == ["agents__close"]
    assert [each.place for each in converted.tools.ignored] == ["tools[0].tools[1]"]
    assert converted.tools.declarations == [AGENTS | {"tools": [CLOSE]}]


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "custom", "name": "patch"}, "patch"),
        ({"type": "function", "name": "close", "namespace": "agents"}, "agents__close"),
        ({"type": "function", "name": "close", "namespace": "functions"}, "close"),
        ({"type": "shell"}, "shell"),
        ({"type": "apply_patch"}, "apply_patch"),
    ],
)
def test_choice_when_it_forces_an_offered_tool_then_its_function(choice: Any, name: str) -> None:
    tools = [CLOSE, PATCH, AGENTS, {"type": "shell"}, {"type": "apply_patch"}]
    chosen = convert(tools=tools, tool_choice=choice).spec.tool_choice
    assert chosen == ToolChoice(ToolUse.REQUIRED, name)


def test_choice_when_allowed_tools_were_left_out_then_the_others_are_allowed() -> None:
    allowed = [{"type": "web_search"}, {"type": "custom", "name": "patch"}, {"type": "shell"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    tools = [CLOSE, PATCH, {"type": "web_search"}, {"type": "shell"}]
    converted = convert(tools=tools, tool_choice=choice)
    assert [each.name for each in converted.spec.tools] == ["patch", "shell"]
    places = [each.place for each in converted.tools.ignored]
    assert places == ["tools[2]", "tool_choice.tools[0]"]


CALLS: dict[str, tuple[Any, ToolCall, dict[str, Any], str]] = {
    "function of a namespace": (
        AGENTS, ToolCall("c", "agents__close", "{}"),
        {"type": "function_call", "name": "close", "namespace": "agents", "arguments": "{}"},
        "function_call_arguments",
    ),
    "function of the namespace of all": (
        PLAIN, ToolCall("c", "close", '{"a": 1}'),
        {"type": "function_call", "name": "close", "arguments": '{"a": 1}'},
        "function_call_arguments",
    ),
    "custom": (
        PATCH, ToolCall("c", "patch", '{"input": "*** Begin\\n"}'),
        {"type": "custom_tool_call", "name": "patch", "input": "*** Begin\n"},
        "custom_tool_call_input",
    ),
    "custom of a namespace": (
        AGENTS, ToolCall("c", "agents__patch", '{"input": "x"}'),
        {"type": "custom_tool_call", "name": "patch", "namespace": "agents", "input": "x"},
        "custom_tool_call_input",
    ),
    "custom without the JSON": (
        PATCH, ToolCall("c", "patch", "*** Begin"),
        {"type": "custom_tool_call", "name": "patch", "input": "*** Begin"},
        "custom_tool_call_input",
    ),
    "local shell": (
        {"type": "local_shell"},
        ToolCall("c", "local_shell", '{"command": ["ls"], "timeout_ms": 9}'),
        {"type": "local_shell_call",
         "action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 9}},
        "",
    ),
    "shell": (
        {"type": "shell", "environment": {"type": "local"}},
        ToolCall("c", "shell", '{"commands": ["ls", "pwd"]}'),
        {"type": "shell_call", "action": {"commands": ["ls", "pwd"]}},
        "",
    ),
    "patch that writes": (
        {"type": "apply_patch"},
        ToolCall("c", "apply_patch", '{"type": "create_file", "path": "a", "diff": "+x"}'),
        {"type": "apply_patch_call",
         "operation": {"type": "create_file", "path": "a", "diff": "+x"}},
        "",
    ),
    "patch that deletes": (
        {"type": "apply_patch"},
        ToolCall("c", "apply_patch", '{"type": "delete_file", "path": "a", "diff": ""}'),
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        "",
    ),
    "search": (
        SEARCH, ToolCall("c", "tool_search", '{"query": "x"}'),
        {"type": "tool_search_call", "execution": "client", "arguments": {"query": "x"}},
        "",
    ),
}  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CALLS)
async def test_call_when_the_tool_is_no_function_then_an_item_of_its_own(
    name: str, scripted: ScriptedApi
) -> None:
    tool, call, expected, streamed = CALLS[name]
    scripted.service.steps = [call, Finished(FinishReason.TOOL_CALLS, USAGE)]
    body = {"model": "starter", "input": "hi", "tools": [tool]}
    answer = (await scripted.client.post(PATH, json=body)).json()
    (item,) = answer["output"]
    common = {"id": item["id"], "call_id": "c", "status": "completed"}
    assert item == expected | common
    assert answer["tools"] == [tool]
    TypeAdapter[Any](Tool).validate_python(answer["tools"][0])
    kinds: Any = ResponseOutputItem | ResponseCustomToolCallItem
    model = TypeAdapter[Any](kinds).validate_python(item)
    assert model.type == item["type"]

    told = events(await scripted.client.post(PATH, json=body | {"stream": True}))
    added, *deltas, done = told[2:-1]
    assert added["type"] == "response.output_item.added"
    assert added["item"]["status"] == "in_progress"
    assert done["type"] == "response.output_item.done"
    assert done["item"] == item | {"id": done["item"]["id"]}
    assert told[-1]["response"]["output"] == [done["item"]]
    names = [f"response.{streamed}.delta", f"response.{streamed}.done"] if streamed else []
    assert [each["type"] for each in deltas] == names
    if streamed:
        field = streamed.rpartition("_")[2]
        assert deltas[0]["delta"] == deltas[1][field] == expected[field]
        assert added["item"][field] == ""
    for event in told:
        TypeAdapter[Any](ResponseStreamEvent).validate_python(event)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CALLS)
async def test_call_when_passed_back_then_the_call_of_the_model(
    name: str, scripted: ScriptedApi
) -> None:
    tool, call, _, _ = CALLS[name]
    scripted.service.steps = [call, Finished(FinishReason.TOOL_CALLS, USAGE)]
    body = {"model": "starter", "input": "hi", "tools": [tool]}
    (item,) = (await scripted.client.post(PATH, json=body)).json()["output"]
    TypeAdapter[Any](ResponseInputItem).validate_python(item)
    await scripted.client.post(
        PATH, json=body | {"input": [{"role": "user", "content": "x"}, item]}
    )
    (again,) = scripted.spec.messages[-1].tool_calls
    assert (again.id, again.name) == (call.id, call.name)
    if call.arguments.startswith("{"):
        left = {"diff"} if '"diff": ""' in call.arguments else set[str]()
        expected = {k: v for k, v in json.loads(call.arguments).items() if k not in left}
        assert json.loads(again.arguments) == expected


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("local_shell", '{"command": "ls"}'),
        ("shell", "ls"),
        ("apply_patch", '{"type": "create_file", "path": "a"}'),
    ],
)
async def test_call_when_its_arguments_do_not_fit_then_a_failed_response(
    kind: str, arguments: str, scripted: ScriptedApi
) -> None:
    scripted.service.steps = [
        ToolCall("c", kind, arguments), Finished(FinishReason.TOOL_CALLS, USAGE),
    ]  # fmt: skip
    body = {"model": "starter", "input": "hi", "tools": [{"type": kind}]}
    answer = await scripted.client.post(PATH, json=body)
    assert answer.status_code == 502
    assert "arguments that do not fit" in answer.json()["error"]["message"]
    last = events(await scripted.client.post(PATH, json=body | {"stream": True}))[-1]
    assert last["type"] == "response.failed"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", [PATH, f"{PATH}/input_tokens"])
async def test_tools_when_left_out_then_the_header_names_them(
    path: str, scripted: ScriptedApi, capsys: pytest.CaptureFixture[str]
) -> None:
    body: dict[str, Any] = {"model": "starter", "input": "hi", "tools": [CLOSE, *LEFT_OUT[:2]]}
    answer = await scripted.client.post(path, json=body)
    assert answer.headers["x-ignored-fields"] == "tools[1], tools[2]"
    plain = await scripted.client.post(path, json=body | {"tools": [CLOSE]})
    assert "x-ignored-fields" not in plain.headers
    streamed = await scripted.client.post(path, json=body | {"stream": True})
    assert streamed.headers["x-ignored-fields"] == "tools[1], tools[2]"


@pytest.mark.asyncio(loop_scope="module")
async def test_tools_when_very_many_are_left_out_then_the_header_stays_short(
    scripted: ScriptedApi,
) -> None:
    body: dict[str, Any] = {"model": "starter", "input": "hi"}
    tools = [{"type": "web_search\r\nX: 1"}] * 5000
    answer = await scripted.client.post(PATH, json=body | {"tools": tools})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"].endswith(", tools[31], and 4968 more")
    assert answer.json()["tools"] == []
