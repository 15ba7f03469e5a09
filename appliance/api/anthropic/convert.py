"""From this dialect's request to the domain's: pure, and precise about what is wrong."""

from typing import Any

import msgspec

from appliance.api.anthropic.blocks import conversation
from appliance.api.anthropic.schemas import (
    CountBody,
    MessagesBody,
    OutputConfigBody,
    ToolBody,
    ToolChoiceBody,
    ToolChoiceKind,
)
from appliance.api.http.validation import located
from appliance.domain.completions import Ask
from appliance.domain.messages import (
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput

_CUSTOM = (None, "custom")
_USES = {
    ToolChoiceKind.AUTO: ToolUse.AUTO,
    ToolChoiceKind.ANY: ToolUse.REQUIRED,
    ToolChoiceKind.TOOL: ToolUse.REQUIRED,
    ToolChoiceKind.NONE: ToolUse.NONE,
}


def message_ask(body: MessagesBody, labels: tuple[str, ...] = ()) -> Ask:
    """The completion that a body asks for. Raises InvalidInput naming the field."""
    counted = count_ask(body, labels)
    return msgspec.structs.replace(counted, sampling=_sampling(body), max_tokens=body.max_tokens)


def count_ask(body: CountBody, labels: tuple[str, ...] = ()) -> Ask:
    """The prompt alone."""
    _refuse_unsupported(body)
    tools = tuple(_tool(f"tools[{index}]", each) for index, each in enumerate(body.tools or []))
    _check_unique(tools)
    return Ask(
        model=body.model,
        messages=conversation(body.system, body.messages),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        output=_output(body.output_config),
        labels=labels,
    )


def _refuse_unsupported(body: CountBody) -> None:
    if body.thread is not None:
        raise _no_threads()
    if body.container is not None:
        raise InvalidInput.at("container", "there are no containers on this box; leave it out")
    if body.mcp_servers:
        raise InvalidInput.at(
            "mcp_servers", "this box calls no MCP servers; offer their tools in `tools`"
        )


def _no_threads() -> InvalidInput:
    """The refusal at whose code the official package goes on with whole conversations."""
    refused = InvalidInput.at(
        "thread", "this box keeps no conversations; send the whole one in `messages`"
    )
    refused.details |= {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return refused


def _sampling(body: MessagesBody) -> Sampling:
    given = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    chosen = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(Sampling(), stop=tuple(body.stop_sequences or ()), **chosen)


def _tool(place: str, given: dict[str, Any]) -> Tool:
    kind = given.get("type")
    if kind not in _CUSTOM:
        raise InvalidInput.at(
            f"{place}.type",
            f"{str(kind)[:60]!r} is a tool that this box does not run; describe a tool of your own",
        )
    try:
        tool = msgspec.convert(given, ToolBody)
    except msgspec.ValidationError as error:
        within = str(error).partition(" - at `$")[2].rstrip("`")
        raise InvalidInput.at(*located(f"{place}{within}", str(error))) from None
    return Tool(tool.name, tool.description, tool.input_schema)


def _check_unique(tools: tuple[Tool, ...]) -> None:
    seen: set[str] = set()
    for tool in tools:
        if tool.name in seen:
            raise InvalidInput.at("tools", f"the name {tool.name!r} stands for two tools")
        seen.add(tool.name)


def _tool_choice(given: ToolChoiceBody | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if given is None:
        return ToolChoice()
    use = _USES[given.type]
    if use is ToolUse.REQUIRED and not tools:
        raise InvalidInput.at("tool_choice", "asks for a tool, and `tools` is empty")
    named = given.type is ToolChoiceKind.TOOL
    if named and given.name not in {tool.name for tool in tools}:
        raise InvalidInput.at("tool_choice.name", "must be the name of one of `tools`")
    name = given.name if named and given.name else ""
    return ToolChoice(use, name, parallel=not given.disable_parallel_tool_use)


def _output(config: OutputConfigBody | None) -> OutputFormat:
    form = config.format if config else None
    if form is None:
        return OutputFormat()
    return OutputFormat(OutputKind.SCHEMA, form.schema)
