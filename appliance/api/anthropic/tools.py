"""Converts tools and tool_choice.

Tools that Anthropic's own servers run (web_search_*, code_execution_* …) are left out, because
clients can't be told not to send them, unless tool_choice forces one.
"""

from collections.abc import Sequence

from appliance.api.anthropic.client_tools import read_client_tool
from appliance.api.anthropic.schemas import Block, ToolBody, ToolChoiceBody, ToolChoiceKind
from appliance.api.http.ignored_fields import IgnoredField
from appliance.api.http.validation import convert_field
from appliance.domain.messages import Tool, ToolChoice, ToolUse
from appliance.errors import InvalidInput

_OWN_TYPES = (None, "custom")
_USES = {
    ToolChoiceKind.AUTO: ToolUse.AUTO,
    ToolChoiceKind.ANY: ToolUse.REQUIRED,
    ToolChoiceKind.TOOL: ToolUse.REQUIRED,
    ToolChoiceKind.NONE: ToolUse.NONE,
}


def convert_tools(bodies: Sequence[Block], ignored: list[IgnoredField]) -> tuple[Tool, ...]:
    """The functions that the model may call. Raises InvalidInput naming the tool."""
    tools: dict[str, Tool] = {}
    for index, body in enumerate(bodies):
        place = f"tools[{index}]"
        tool = _convert_tool(place, body)
        if tool is None:
            ignored.append(IgnoredField(place, str(body.get("type"))))
        elif tool.name in tools:
            raise InvalidInput.at("tools", f"has two tools named {tool.name!r}")
        else:
            tools[tool.name] = tool
    return tuple(tools.values())


def convert_tool_choice(choice: ToolChoiceBody | None, tools: Sequence[Tool]) -> ToolChoice:
    """Whether tools may or must be called. Raises InvalidInput."""
    if choice is None:
        return ToolChoice()
    use = _USES[choice.type]
    if use is ToolUse.REQUIRED and not tools:
        raise InvalidInput.at(
            "tool_choice", "requires a tool, but `tools` has none that can be served"
        )
    by_name = choice.type is ToolChoiceKind.TOOL
    if by_name and choice.name not in {tool.name for tool in tools}:
        raise InvalidInput.at(
            "tool_choice.name", "must be the name of one of `tools` that the client runs"
        )
    name = choice.name if by_name and choice.name else ""
    disable_parallel = choice.disable_parallel_tool_use
    return ToolChoice(use, name, None if disable_parallel is None else not disable_parallel)


def _convert_tool(place: str, body: Block) -> Tool | None:
    """None for a tool that can't be served."""
    if body.get("type") not in _OWN_TYPES and "input_schema" not in body:
        return read_client_tool(place, body)
    given = convert_field(body, ToolBody, place)
    return Tool(given.name, given.description, given.input_schema, given.strict)
