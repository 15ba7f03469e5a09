"""Converts the output options of a chat: tools, tool_choice and response_format."""

import re
from collections.abc import Iterable, Sequence

from appliance.api.openai.schemas import (
    AllowedToolsBody,
    ChatBody,
    FunctionBody,
    JsonSchemaBody,
    NameBody,
    ToolBody,
    ToolChoiceBody,
)
from appliance.domain.messages import OutputFormat, OutputKind, Tool, ToolChoice, ToolUse
from appliance.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FUNCTION = "function"


def convert_tools(body: ChatBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that the model may call, and the choice among them.

    `functions` and `function_call` are the deprecated form, without parallel calls.
    """
    if body.functions is not None:
        return _convert_functions(body)
    tools = _tools(body.tools or ())
    if body.tool_choice is None:
        return tools, ToolChoice(parallel=body.parallel_tool_calls)
    return _convert_choice(tools, body.tool_choice, body.parallel_tool_calls)


def convert_output_format(body: ChatBody) -> OutputFormat:
    """The format of the answer."""
    requested = body.response_format
    kind = "text" if requested is None else requested.type
    if body.grammar is not None:
        return grammar_output(body.grammar, kind)
    match kind:
        case "text":
            return OutputFormat()
        case "json_object":
            return OutputFormat(OutputKind.JSON)
        case "json_schema":
            return _schema_output(requested.json_schema if requested else None)
        case _:
            raise InvalidInput.at(
                "response_format.type", "must be one of: text, json_object, json_schema"
            )


def grammar_output(grammar: str, kind: str = "text") -> OutputFormat:
    """Output constrained by a GBNF grammar; `kind` is the type of response_format."""
    if kind != "text":
        raise InvalidInput.at("grammar", f"can't be combined with response_format {kind!r}")
    return OutputFormat(OutputKind.GRAMMAR, grammar=grammar)


def _convert_functions(body: ChatBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    if body.tools is not None:
        raise InvalidInput.at("functions", "can't be combined with `tools`, which replaced it")
    tools = tuple(
        _tool(f"functions[{index}]", function)
        for index, function in enumerate(body.functions or ())
    )
    _require_unique_names(tools, "functions")
    match body.function_call:
        case None:
            return tools, ToolChoice(parallel=False)
        case NameBody(name=name):
            return tools, _require_tool(tools, name, "function_call.name", parallel=False)
        case "auto" | "none" as word:
            return tools, ToolChoice(ToolUse(word), parallel=False)
        case _:
            raise InvalidInput.at("function_call", "must be auto, none or {name}")


def _tools(bodies: Sequence[ToolBody]) -> tuple[Tool, ...]:
    tools = tuple(_tool_of(f"tools[{index}]", body) for index, body in enumerate(bodies))
    _require_unique_names(tools, "tools")
    return tools


def _tool_of(at: str, body: ToolBody) -> Tool:
    if body.type != _FUNCTION:
        raise InvalidInput.at(f"{at}.type", f"{body.type!r} is not supported; use 'function'")
    if body.function is None:
        raise InvalidInput.at(f"{at}.function", "is required")
    return _tool(f"{at}.function", body.function)


def _tool(at: str, function: FunctionBody) -> Tool:
    _check_name(f"{at}.name", function.name)
    return Tool(
        function.name, function.description or "", function.parameters or {}, function.strict
    )


def _check_name(at: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput.at(at, "must be 1 to 64 letters, digits, underscores or dashes")


def _require_unique_names(tools: Iterable[Tool], field: str) -> None:
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            raise InvalidInput.at(field, f"{tool.name!r} occurs twice")
        names.add(tool.name)


def _convert_choice(
    tools: tuple[Tool, ...], choice: str | ToolChoiceBody, parallel: bool | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    match choice:
        case "auto" | "none":
            return tools, ToolChoice(ToolUse(choice), parallel=parallel)
        case "required":
            _require_any_tools(tools)
            return tools, ToolChoice(ToolUse.REQUIRED, parallel=parallel)
        case ToolChoiceBody(type="function", function=NameBody(name=name)):
            return tools, _require_tool(tools, name, "tool_choice.function.name", parallel=parallel)
        case ToolChoiceBody(type="allowed_tools", allowed_tools=AllowedToolsBody() as allowed):
            return _convert_allowed_tools(tools, allowed, parallel)
        case _:
            raise InvalidInput.at(
                "tool_choice",
                "must be auto, none, required, "
                '{"type": "function", "function": {"name": …}} or an allowed_tools object',
            )


def _convert_allowed_tools(
    tools: tuple[Tool, ...], allowed: AllowedToolsBody, parallel: bool | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    at = "tool_choice.allowed_tools"
    if allowed.mode not in (ToolUse.AUTO, ToolUse.REQUIRED):
        raise InvalidInput.at(f"{at}.mode", "must be auto or required")
    names = {each.function.name for each in allowed.tools if each.function is not None}
    if unknown := names.difference(tool.name for tool in tools):
        raise InvalidInput.at(f"{at}.tools", f"not in `tools`: {', '.join(sorted(unknown))}")
    kept = tuple(tool for tool in tools if tool.name in names)
    _require_any_tools(kept)
    return kept, ToolChoice(ToolUse(allowed.mode), parallel=parallel)


def _require_tool(
    tools: Iterable[Tool], name: str, at: str, *, parallel: bool | None
) -> ToolChoice:
    if all(tool.name != name for tool in tools):
        raise InvalidInput.at(at, f"{name!r} is not in the tools of this request")
    return ToolChoice(ToolUse.REQUIRED, name, parallel)


def _require_any_tools(tools: Sequence[Tool]) -> None:
    if not tools:
        raise InvalidInput.at("tool_choice", "requires `tools`")


def _schema_output(body: JsonSchemaBody | None) -> OutputFormat:
    if body is None:
        raise InvalidInput.at("response_format.json_schema", "is required")
    _check_name("response_format.json_schema.name", body.name)
    if body.schema is None:
        raise InvalidInput.at("response_format.json_schema.schema", "is required")
    return OutputFormat(OutputKind.SCHEMA, schema=body.schema, name=body.name, strict=body.strict)
