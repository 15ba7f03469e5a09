"""From a request to the domain's: pure, and precise about what is wrong."""

from typing import Any

import msgspec

from appliance.api.openai.responses.items import conversation, converted
from appliance.api.openai.responses.schemas import (
    FormatBody,
    FunctionBody,
    PromptBody,
    ResponseBody,
)
from appliance.domain.completions import Ask, Urgency
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
    "previous_response_id": "this box keeps no responses; send the whole conversation in `input`",
    "conversation": "this box keeps no conversations; send the whole one in `input`",
    "store": "this box keeps no responses; send false or leave it out",
    "background": "this box answers in the foreground only; send false or leave it out",
    "prompt": "this box keeps no prompt templates; send the text in `instructions` and `input`",
    "context_management": "this box compacts no context; leave it out, or send truncation 'auto'",
    "moderation": "this box has no moderation; leave it out",
}
_KINDS = {
    "text": OutputKind.TEXT,
    "json_object": OutputKind.JSON,
    "json_schema": OutputKind.SCHEMA,
}
_FUNCTION, _ALLOWED = "function", "allowed_tools"
_BATCH = frozenset({"flex", "batch"})
# What clients of this format expect of a field that they leave out.
_USUAL = Sampling(temperature=1.0, top_p=1.0, top_k=0)


def response_ask(body: ResponseBody, labels: tuple[str, ...] = ()) -> Ask:
    """The completion that a body asks for. Raises InvalidInput naming the field."""
    return msgspec.structs.replace(
        prompt_ask(body, labels),
        sampling=_sampling(body),
        max_tokens=body.max_output_tokens,
        urgency=Urgency.BATCH if body.service_tier in _BATCH else Urgency.INTERACTIVE,
    )


def prompt_ask(body: PromptBody, labels: tuple[str, ...] = ()) -> Ask:
    """The prompt alone."""
    for field, reason in _UNSUPPORTED.items():
        if getattr(body, field, None):
            raise InvalidInput.at(field, reason)
    tools = _tools(body.tools or [])
    choice, usable = _tool_choice(body, tools)
    return Ask(
        model=body.model or None,
        messages=conversation(body.instructions, body.input),
        tools=usable,
        tool_choice=choice,
        output=_output(body.text.format if body.text else None),
        context_shift=body.truncation == "auto",
        labels=labels,
    )


def _sampling(body: ResponseBody) -> Sampling:
    given = {"temperature": body.temperature, "top_p": body.top_p, "logprobs": _logprobs(body)}
    chosen = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(_USUAL, **chosen)


def _logprobs(body: ResponseBody) -> int | None:
    wanted = LOGPROBS in (body.include or [])
    return (body.top_logprobs or 0) if wanted or body.top_logprobs else None


def _tools(given: list[dict[str, Any]]) -> tuple[Tool, ...]:
    tools = tuple(_tool(f"tools[{index}]", each) for index, each in enumerate(given))
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidInput.at("tools", "two tools have the same name")
    return tools


def _tool(place: str, given: dict[str, Any]) -> Tool:
    kind = given.get("type")
    if kind != _FUNCTION:
        raise InvalidInput.at(
            f"{place}.type",
            f"{str(kind)[:60]!r} is a tool that this box does not have; use {_FUNCTION!r}",
        )
    found = converted(place, given, FunctionBody)
    return Tool(found.name, found.description or "", found.parameters or {})


def _tool_choice(body: PromptBody, tools: tuple[Tool, ...]) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """How tools may be used, and which of them."""
    parallel = body.parallel_tool_calls is not False
    given = body.tool_choice or ToolUse.AUTO.value
    if isinstance(given, str):
        return ToolChoice(_use("tool_choice", given, tools), parallel=parallel), tools
    match given.get("type"):
        case "function":
            name = _name("tool_choice.name", given.get("name"), tools)
            return ToolChoice(ToolUse.REQUIRED, name, parallel), tools
        case "allowed_tools":
            allowed = _allowed(given, tools)
            use = _use("tool_choice.mode", str(given.get("mode")), allowed)
            return ToolChoice(use, parallel=parallel), allowed
        case kind:
            raise InvalidInput.at(
                "tool_choice.type",
                f"{str(kind)[:60]!r} is not possible on this box; use {_FUNCTION} or {_ALLOWED}",
            )


def _use(place: str, given: str, tools: tuple[Tool, ...]) -> ToolUse:
    if given not in set(ToolUse):
        raise InvalidInput.at(place, f"must be one of {', '.join(ToolUse)}")
    if given == ToolUse.REQUIRED and not tools:
        raise InvalidInput.at(place, "asks for a tool, and `tools` is empty")
    return ToolUse(given)


def _name(place: str, given: Any, tools: tuple[Tool, ...]) -> str:
    for tool in tools:
        if tool.name == given:
            return tool.name
    raise InvalidInput.at(place, "must be the name of one of `tools`")


def _allowed(given: dict[str, Any], tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    names = {
        _name(f"tool_choice.tools[{index}].name", each.get("name"), tools)
        for index, each in enumerate(converted("tool_choice", given, _AllowedBody).tools)
    }
    return tuple(tool for tool in tools if tool.name in names)


class _AllowedBody(msgspec.Struct):
    tools: list[dict[str, Any]]


def _output(form: FormatBody | None) -> OutputFormat:
    if form is None:
        return OutputFormat()
    kind = _KINDS[form.type]
    if kind is not OutputKind.SCHEMA:
        return OutputFormat(kind)
    if form.schema is None:
        raise InvalidInput.at("text.format.schema", "is required with the type 'json_schema'")
    return OutputFormat(kind, form.schema, name=form.name or "", strict=bool(form.strict))
