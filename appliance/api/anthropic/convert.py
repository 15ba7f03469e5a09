"""Converts requests to completion specs: pure functions."""

from typing import Any

import msgspec

from appliance.api.anthropic.blocks import convert_messages
from appliance.api.anthropic.schemas import (
    CountBody,
    MessagesBody,
    OutputConfigBody,
    ToolBody,
    ToolChoiceBody,
    ToolChoiceKind,
)
from appliance.api.http.validation import convert_field
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import (
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput

_CLIENT_TOOL_TYPES = (None, "custom")
_USES = {
    ToolChoiceKind.AUTO: ToolUse.AUTO,
    ToolChoiceKind.ANY: ToolUse.REQUIRED,
    ToolChoiceKind.TOOL: ToolUse.REQUIRED,
    ToolChoiceKind.NONE: ToolUse.NONE,
}


def message_spec(body: MessagesBody, labels: tuple[str, ...] = ()) -> CompletionSpec:
    """The spec of a message. Raises InvalidInput naming the field."""
    prompt = prompt_spec(body, labels)
    return msgspec.structs.replace(prompt, sampling=_sampling(body), max_tokens=body.max_tokens)


def prompt_spec(body: CountBody, labels: tuple[str, ...] = ()) -> CompletionSpec:
    """The spec of the prompt alone, to count its tokens."""
    _refuse_unsupported(body)
    tools = tuple(_tool(f"tools[{index}]", each) for index, each in enumerate(body.tools or []))
    _check_unique(tools)
    return CompletionSpec(
        model=body.model,
        messages=convert_messages(body.system, body.messages),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        output=_output(body.output_config),
        labels=labels,
    )


def _refuse_unsupported(body: CountBody) -> None:
    if body.thread is not None:
        raise _no_threads()
    if body.container is not None:
        raise InvalidInput.at("container", "is not supported; leave it out")
    if body.mcp_servers:
        raise InvalidInput.at("mcp_servers", "is not supported; send the tools in `tools`")


def _no_threads() -> InvalidInput:
    """The error that makes the official package send whole conversations instead."""
    refused = InvalidInput.at(
        "thread", "is not supported: conversations are not stored; send all of it in `messages`"
    )
    refused.details |= {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return refused


def _sampling(body: MessagesBody) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
    )


def _tool(place: str, body: dict[str, Any]) -> Tool:
    kind = body.get("type")
    if kind not in _CLIENT_TOOL_TYPES:
        raise InvalidInput.at(
            f"{place}.type",
            f"{str(kind)[:60]!r} is not supported; use a client tool with an input_schema",
        )
    tool = convert_field(body, ToolBody, place)
    return Tool(tool.name, tool.description, tool.input_schema, tool.strict)


def _check_unique(tools: tuple[Tool, ...]) -> None:
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            raise InvalidInput.at("tools", f"has two tools named {tool.name!r}")
        names.add(tool.name)


def _tool_choice(choice: ToolChoiceBody | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    use = _USES[choice.type]
    if use is ToolUse.REQUIRED and not tools:
        raise InvalidInput.at("tool_choice", "requires a tool, but `tools` is empty")
    by_name = choice.type is ToolChoiceKind.TOOL
    if by_name and choice.name not in {tool.name for tool in tools}:
        raise InvalidInput.at("tool_choice.name", "must be the name of one of `tools`")
    name = choice.name if by_name and choice.name else ""
    disable_parallel = choice.disable_parallel_tool_use
    return ToolChoice(use, name, None if disable_parallel is None else not disable_parallel)


def _output(config: OutputConfigBody | None) -> OutputFormat:
    form = config.format if config else None
    if form is None:
        return OutputFormat()
    return OutputFormat(OutputKind.SCHEMA, form.schema, strict=True)
