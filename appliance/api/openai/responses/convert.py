"""Converts requests to completion specs: pure functions."""

from typing import Any

import msgspec

from appliance.api.http.validation import convert_field
from appliance.api.openai.convert import parse_service_tier
from appliance.api.openai.responses.items import convert_input
from appliance.api.openai.responses.schemas import (
    FormatBody,
    FunctionBody,
    PromptBody,
    ResponseBody,
)
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

LOGPROBS = "message.output_text.logprobs"

_UNSUPPORTED = {
    "previous_response_id": "is not supported: send the whole conversation in `input`",
    "conversation": "is not supported: conversations are not stored; send all of it in `input`",
    "store": "is not supported: responses are not stored; send false or leave it out",
    "background": "is not supported; send false or leave it out",
    "prompt": "is not supported: send the text in `instructions` and `input`",
    "context_management": "is not supported; leave it out, or send truncation 'auto'",
    "moderation": "is not supported; leave it out",
}
_KINDS = {
    "text": OutputKind.TEXT,
    "json_object": OutputKind.JSON,
    "json_schema": OutputKind.SCHEMA,
}
_FUNCTION, _ALLOWED = "function", "allowed_tools"


def response_spec(body: ResponseBody, labels: tuple[str, ...] = ()) -> CompletionSpec:
    """The spec of a response. Raises InvalidInput naming the field."""
    return msgspec.structs.replace(
        prompt_spec(body, labels),
        sampling=_sampling(body),
        max_tokens=body.max_output_tokens,
        urgency=parse_service_tier(body.service_tier),
    )


def prompt_spec(body: PromptBody, labels: tuple[str, ...] = ()) -> CompletionSpec:
    """The spec of the prompt alone, to count its tokens."""
    for field, reason in _UNSUPPORTED.items():
        if getattr(body, field, None):
            raise InvalidInput.at(field, reason)
    tools = _tools(body.tools or [])
    choice, usable = _tool_choice(body, tools)
    return CompletionSpec(
        model=body.model or None,
        messages=convert_input(body.instructions, body.input),
        tools=usable,
        tool_choice=choice,
        output=_output(body.text.format if body.text else None),
        context_shift=body.truncation == "auto",
        labels=labels,
    )


def _sampling(body: ResponseBody) -> Sampling:
    return Sampling(temperature=body.temperature, top_p=body.top_p, logprobs=_logprobs(body))


def _logprobs(body: ResponseBody) -> int | None:
    requested = LOGPROBS in (body.include or []) or body.top_logprobs
    return (body.top_logprobs or 0) if requested else None


def _tools(bodies: list[dict[str, Any]]) -> tuple[Tool, ...]:
    tools = tuple(_tool(f"tools[{index}]", each) for index, each in enumerate(bodies))
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidInput.at("tools", "has two tools of the same name")
    return tools


def _tool(place: str, body: dict[str, Any]) -> Tool:
    kind = body.get("type")
    if kind != _FUNCTION:
        raise InvalidInput.at(
            f"{place}.type",
            f"{str(kind)[:60]!r} is not supported; use {_FUNCTION!r}",
        )
    function = convert_field(body, FunctionBody, place)
    return Tool(
        function.name, function.description or "", function.parameters or {}, function.strict
    )


def _tool_choice(body: PromptBody, tools: tuple[Tool, ...]) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """The tool choice, and the tools that may be called."""
    parallel, choice = body.parallel_tool_calls, body.tool_choice
    if choice is None:
        return ToolChoice(parallel=parallel), tools
    if isinstance(choice, str):
        return ToolChoice(_tool_use("tool_choice", choice, tools), parallel=parallel), tools
    match choice.get("type"):
        case "function":
            name = _tool_name("tool_choice.name", choice.get("name"), tools)
            return ToolChoice(ToolUse.REQUIRED, name, parallel), tools
        case "allowed_tools":
            allowed = _allowed_tools(choice, tools)
            use = _tool_use("tool_choice.mode", str(choice.get("mode")), allowed)
            return ToolChoice(use, parallel=parallel), allowed
        case kind:
            raise InvalidInput.at(
                "tool_choice.type",
                f"{str(kind)[:60]!r} is not supported; use {_FUNCTION} or {_ALLOWED}",
            )


def _tool_use(place: str, mode: str, tools: tuple[Tool, ...]) -> ToolUse:
    if mode not in set(ToolUse):
        raise InvalidInput.at(place, f"must be one of {', '.join(ToolUse)}")
    if mode == ToolUse.REQUIRED and not tools:
        raise InvalidInput.at(place, "requires a tool, but `tools` is empty")
    return ToolUse(mode)


def _tool_name(place: str, name: Any, tools: tuple[Tool, ...]) -> str:
    for tool in tools:
        if tool.name == name:
            return tool.name
    raise InvalidInput.at(place, "must be the name of one of `tools`")


def _allowed_tools(choice: dict[str, Any], tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    names = {
        _tool_name(f"tool_choice.tools[{index}].name", each.get("name"), tools)
        for index, each in enumerate(convert_field(choice, _AllowedToolsBody, "tool_choice").tools)
    }
    return tuple(tool for tool in tools if tool.name in names)


class _AllowedToolsBody(msgspec.Struct):
    tools: list[dict[str, Any]]


def _output(form: FormatBody | None) -> OutputFormat:
    if form is None:
        return OutputFormat()
    kind = _KINDS[form.type]
    if kind is not OutputKind.SCHEMA:
        return OutputFormat(kind)
    if form.schema is None:
        raise InvalidInput.at("text.format.schema", "is required with the type 'json_schema'")
    return OutputFormat(kind, form.schema, name=form.name or "", strict=form.strict)
