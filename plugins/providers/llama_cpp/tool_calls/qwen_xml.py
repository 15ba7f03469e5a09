"""Parses tool calls in Qwen3-Coder's XML: one element per parameter, strings unquoted."""

import re
from collections.abc import Iterator, Mapping

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.tool_calls.argument_values import declared_types, parse_value
from plugins.providers.llama_cpp.tool_calls.json_calls import build_call
from plugins.providers.llama_cpp.tool_calls.markers import CALL_START, FUNCTION_END

_FUNCTION = re.compile(r"\s*<function=(?P<name>[^>\n]+)>(?P<body>.*)", re.DOTALL)
# A value ends before the next parameter or at the end: it may contain the end tag itself.
_PARAMETER = re.compile(
    r"\s*<parameter=(?P<name>[^>\n]+)>(?P<value>.*?)</parameter>"
    r"(?=\s*(?:<parameter=[^>\n]+>|\Z))",
    re.DOTALL,
)


def parse_qwen_xml_call(text: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    """Parse a text that is one call, tags included; None if it calls none of these tools.

    Values are converted to the types that the tool declares; what doesn't fit stays text.
    """
    match = _FUNCTION.fullmatch(text.removeprefix(CALL_START))
    tool = tools.get(match["name"].strip()) if match else None
    if match is None or tool is None:
        return None
    body = match["body"].rstrip().removesuffix(FUNCTION_END)
    pairs = list(_pairs(body))
    if any(pair is None for pair in pairs):
        return None
    arguments = {
        name: parse_value(value, declared_types(tool.parameters, name))
        for name, value in filter(None, pairs)
    }
    return build_call(tool.name, arguments, tools) if len(arguments) == len(pairs) else None


def _pairs(body: str) -> Iterator[tuple[str, str] | None]:
    """Names and values of the parameters; a final None if anything else follows."""
    at = 0
    while match := _PARAMETER.match(body, at):
        at = match.end()
        yield match["name"].strip(), _strip_newlines(match["value"])
    if body[at:].strip():
        yield None


def _strip_newlines(value: str) -> str:
    """Remove the line ends between the tags and the value."""
    return value.removeprefix("\n").removesuffix("\n")
