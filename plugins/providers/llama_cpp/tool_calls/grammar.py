"""The GBNF rule of tool calls, for each ToolCallFormat."""

import json
from collections.abc import Iterator, Sequence

from msgspec import Struct

from appliance.domain.messages import Tool
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import literal
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.tool_calls import markers
from plugins.providers.llama_cpp.tool_calls.markers import CALL_END, CALL_START
from plugins.providers.llama_cpp.tool_calls.qwen_xml_grammar import parameters_rule

_MAX_MORE_CALLS = 15


class _CallLayout(Struct, frozen=True):
    """The text before, between and after the calls, and around one call's arguments.

    `head` contains {name}, or {json_name} for the name as JSON.
    """

    start: str
    between: str
    end: str
    head: str
    tail: str = ""


_JSON_HEAD = '{{"name": {json_name}, "arguments": '
_LLAMA_HEAD = '{{"name": {json_name}, "parameters": '
_DEEPSEEK_END = markers.DEEPSEEK_CALL_END + markers.DEEPSEEK_CALLS_END
_DEEPSEEK_START = markers.DEEPSEEK_CALLS_BEGIN + markers.DEEPSEEK_CALL_BEGIN
_LAYOUTS = {
    ToolCallFormat.HERMES: _CallLayout(
        f"{CALL_START}\n", f"\n{CALL_END}\n{CALL_START}\n", f"\n{CALL_END}", _JSON_HEAD, "}"
    ),
    ToolCallFormat.LLAMA: _CallLayout("", "", "", _LLAMA_HEAD, "}"),
    ToolCallFormat.MISTRAL: _CallLayout(
        f"{markers.TOOL_CALLS_MARKER}[", ", ", "]", _JSON_HEAD, "}"
    ),
    ToolCallFormat.QWEN_XML: _CallLayout(
        f"{CALL_START}\n",
        f"\n{CALL_END}\n{CALL_START}\n",
        f"\n{CALL_END}",
        "<function={name}>\n",
        markers.FUNCTION_END,
    ),
    ToolCallFormat.DEEPSEEK_V3: _CallLayout(
        _DEEPSEEK_START,
        f"{markers.DEEPSEEK_CALL_END}\n{markers.DEEPSEEK_CALL_BEGIN}",
        _DEEPSEEK_END,
        f"function{markers.DEEPSEEK_SEPARATOR}{{name}}\n{markers.JSON_FENCE_START}",
        markers.JSON_FENCE_END,
    ),
    ToolCallFormat.DEEPSEEK_V31: _CallLayout(
        _DEEPSEEK_START,
        markers.DEEPSEEK_CALL_END + markers.DEEPSEEK_CALL_BEGIN,
        _DEEPSEEK_END,
        f"{{name}}{markers.DEEPSEEK_SEPARATOR}",
    ),
}
_ARGS_LAYOUT = _CallLayout(markers.TOOL_CALLS_MARKER, markers.TOOL_CALLS_MARKER, "", "{name}[ARGS]")


def add_call_rule(
    rules: Rules,
    tools: Sequence[Tool],
    format_: ToolCallFormat,
    *,
    parallel: bool,
    uses_args_marker: bool,
) -> str:
    """Add a rule for one call, or with `parallel` up to sixteen; returns its name.

    Raises InvalidInput for schemas of parameters that have no grammar.
    """
    with_args = format_ is ToolCallFormat.MISTRAL and uses_args_marker
    layout = _ARGS_LAYOUT if with_args else _LAYOUTS[format_]
    one = rules.add("call", " | ".join(_calls(rules, tools, format_, layout)))
    several = parallel and format_ is not ToolCallFormat.LLAMA
    more = f"({literal(layout.between)} {one}){{0,{_MAX_MORE_CALLS}}}" if several else ""
    parts = (literal(layout.start), one, more, literal(layout.end))
    return rules.add("calls", " ".join(filter(None, parts)))


def _calls(
    rules: Rules, tools: Sequence[Tool], format_: ToolCallFormat, layout: _CallLayout
) -> Iterator[str]:
    body_of = parameters_rule if format_ is ToolCallFormat.QWEN_XML else schema_rule
    for at, tool in enumerate(tools):
        place = f"tools[{at}].parameters"
        schema = {"type": "object", **tool.parameters}
        if schema["type"] != "object":
            raise InvalidInput.at(f"{place}.type", 'must be "object"')
        head = layout.head.format(name=tool.name, json_name=json.dumps(tool.name))
        yield f"{literal(head)} {body_of(rules, schema, place)} {literal(layout.tail)}"
