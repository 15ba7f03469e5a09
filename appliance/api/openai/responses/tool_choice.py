"""Converts `tool_choice`: which of the offered tools may or must be called."""

from typing import Any

import msgspec

from appliance.api.http.validation import convert_field
from appliance.api.openai.responses.schemas import PromptBody
from appliance.api.openai.responses.tools import (
    CUSTOM,
    FUNCTION,
    Json,
    OfferedTool,
    ToolSet,
    function_name,
    places,
)
from appliance.domain.messages import Tool, ToolChoice, ToolUse
from appliance.errors import InvalidInput

_ALLOWED = "allowed_tools"
_PLACE = "tool_choice"


class AllowedToolsBody(msgspec.Struct):
    mode: str
    tools: list[dict[str, Any]]


def convert_tool_choice(body: PromptBody, tools: ToolSet) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The tool choice, and the functions that may be called. Raises InvalidInput.

    A choice that forces a tool that can't be served is refused; in a list of allowed tools, such
    a tool is left out.
    """
    parallel, choice, functions = body.parallel_tool_calls, body.tool_choice, tools.functions
    if choice is None:
        return ToolChoice(parallel=parallel), functions
    if isinstance(choice, str):
        return ToolChoice(_tool_use(_PLACE, choice, functions), parallel=parallel), functions
    if choice.get("type") == _ALLOWED:
        given = convert_field(choice, AllowedToolsBody, _PLACE)
        allowed = _allowed_tools(given, tools)
        use = _tool_use(f"{_PLACE}.mode", given.mode, allowed)
        return ToolChoice(use, parallel=parallel), allowed
    chosen = _find(_PLACE, choice, tools)
    if chosen is None:
        kind = str(choice.get("type"))[:60]
        raise InvalidInput.at(
            f"{_PLACE}.type",
            f"{kind!r} can't be served; use {_ALLOWED}, or the type of a tool that the client runs",
        )
    return ToolChoice(ToolUse.REQUIRED, chosen.function.name, parallel), functions


def _tool_use(place: str, mode: str, functions: tuple[Tool, ...]) -> ToolUse:
    if mode not in set(ToolUse):
        raise InvalidInput.at(place, f"must be one of {', '.join(ToolUse)}")
    if mode == ToolUse.REQUIRED and not functions:
        raise InvalidInput.at(place, "requires a tool, but `tools` has none that can be served")
    return ToolUse(mode)


def _allowed_tools(body: AllowedToolsBody, tools: ToolSet) -> tuple[Tool, ...]:
    names: set[str] = set()
    for place, entry in places(f"{_PLACE}.tools", body.tools):
        tool = _find(place, entry, tools)
        if tool is None:
            tools.ignore(place, entry)
        else:
            names.add(tool.function.name)
    return tuple(each for each in tools.functions if each.name in names)


def _find(place: str, entry: Json, tools: ToolSet) -> OfferedTool | None:
    """The tool that `entry` names; None for a type that is not offered. Raises InvalidInput."""
    kind = entry.get("type", FUNCTION)
    if kind not in (FUNCTION, CUSTOM):
        return next((each for each in tools if each.type == kind), None)
    name = function_name(str(entry.get("name")), entry.get("namespace"))
    tool = tools.find(name)
    if tool is None or tool.type != kind:
        raise InvalidInput.at(f"{place}.name", f"must be the name of a {kind} tool of `tools`")
    return tool
