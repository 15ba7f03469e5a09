"""Tool calls in Qwen3-Coder's XML: one element per parameter, texts as they are."""

import re
from collections.abc import Iterator, Mapping

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.tool_calls.argument_values import kinds_of, value_of
from plugins.providers.llama_cpp.tool_calls.json_calls import made_call
from plugins.providers.llama_cpp.tool_calls.markers import CALL_START, FUNCTION_END

_FUNCTION = re.compile(r"\s*<function=(?P<name>[^>\n]+)>(?P<body>.*)", re.DOTALL)
# A value ends where the next parameter begins, or the body ends: it may hold the mark itself.
_PARAMETER = re.compile(
    r"\s*<parameter=(?P<name>[^>\n]+)>(?P<value>.*?)</parameter>"
    r"(?=\s*(?:<parameter=[^>\n]+>|\Z))",
    re.DOTALL,
)


def xml_call(text: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    """The one call of a text, marks included; None if it is none of these functions.

    Values get the types that the function declares; what is not of the type stays text.
    """
    found = _FUNCTION.fullmatch(text.removeprefix(CALL_START))
    tool = tools.get(found["name"].strip()) if found else None
    if found is None or tool is None:
        return None
    body = found["body"].rstrip().removesuffix(FUNCTION_END)
    pairs = list(_pairs(body))
    if any(pair is None for pair in pairs):
        return None
    arguments = {
        name: value_of(value, kinds_of(tool.parameters, name))
        for name, value in filter(None, pairs)
    }
    return made_call(tool.name, arguments, tools) if len(arguments) == len(pairs) else None


def _pairs(body: str) -> Iterator[tuple[str, str] | None]:
    """Names and texts of the parameters; None, at the end, for anything else."""
    at = 0
    while found := _PARAMETER.match(body, at):
        at = found.end()
        yield found["name"].strip(), _unwrapped(found["value"])
    if body[at:].strip():
        yield None


def _unwrapped(value: str) -> str:
    """Values stand on lines of their own; the line ends are not theirs."""
    return value.removeprefix("\n").removesuffix("\n")
