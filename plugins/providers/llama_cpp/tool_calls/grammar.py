"""The grammar of answers that must be, or may be, tool calls."""

import json
from collections.abc import Iterator, Sequence

from msgspec import Struct

from appliance.domain.messages import Tool
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import literal
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.tool_calls import markers as marks
from plugins.providers.llama_cpp.tool_calls.markers import CALL_END, CALL_START
from plugins.providers.llama_cpp.tool_calls.qwen_xml_grammar import xml_body

_MOST_MORE_CALLS = 15


class _Shape(Struct, frozen=True):
    """What stands before, between and behind the calls, and around one call's arguments.

    `head` holds {name}, or {json_name} for the name as JSON.
    """

    start: str
    between: str
    end: str
    head: str
    tail: str = ""


_JSON_HEAD = '{{"name": {json_name}, "arguments": '
_BARE_HEAD = '{{"name": {json_name}, "parameters": '
_FENCES_END = marks.FENCED_END + marks.CALLS_END
_FENCES_START = marks.CALLS_BEGIN + marks.CALL_BEGIN
_SHAPES = {
    CallForm.TAGGED: _Shape(
        f"{CALL_START}\n", f"\n{CALL_END}\n{CALL_START}\n", f"\n{CALL_END}", _JSON_HEAD, "}"
    ),
    CallForm.BARE: _Shape("", "", "", _BARE_HEAD, "}"),
    CallForm.LISTED: _Shape(f"{marks.LIST_MARK}[", ", ", "]", _JSON_HEAD, "}"),
    CallForm.XML: _Shape(
        f"{CALL_START}\n",
        f"\n{CALL_END}\n{CALL_START}\n",
        f"\n{CALL_END}",
        "<function={name}>\n",
        marks.FUNCTION_END,
    ),
    CallForm.FENCED: _Shape(
        _FENCES_START,
        f"{marks.FENCED_END}\n{marks.CALL_BEGIN}",
        _FENCES_END,
        f"function{marks.SEPARATOR}{{name}}\n{marks.FENCE_START}",
        marks.FENCE_END,
    ),
    CallForm.PARTED: _Shape(
        _FENCES_START,
        marks.FENCED_END + marks.CALL_BEGIN,
        _FENCES_END,
        f"{{name}}{marks.SEPARATOR}",
    ),
}
_MARKED = _Shape(marks.LIST_MARK, marks.LIST_MARK, "", "{name}[ARGS]")


def call_rule(
    rules: Rules, tools: Sequence[Tool], form: CallForm, *, parallel: bool, marks_arguments: bool
) -> str:
    """The name of a rule for one call, or with `parallel` up to sixteen, in this form.

    Raises InvalidInput for parameters' schemas that no grammar can be made of.
    """
    marked = form is CallForm.LISTED and marks_arguments
    shape = _MARKED if marked else _SHAPES[form]
    one = rules.add("call", " | ".join(_calls(rules, tools, form, shape)))
    several = parallel and form is not CallForm.BARE
    more = f"({literal(shape.between)} {one}){{0,{_MOST_MORE_CALLS}}}" if several else ""
    parts = (literal(shape.start), one, more, literal(shape.end))
    return rules.add("calls", " ".join(filter(None, parts)))


def _calls(rules: Rules, tools: Sequence[Tool], form: CallForm, shape: _Shape) -> Iterator[str]:
    body_of = xml_body if form is CallForm.XML else schema_rule
    for at, tool in enumerate(tools):
        place = f"tools[{at}].parameters"
        schema = {"type": "object", **tool.parameters}
        if schema["type"] != "object":
            raise InvalidInput.at(f"{place}.type", "a function's parameters are an object")
        head = shape.head.format(name=tool.name, json_name=json.dumps(tool.name))
        yield f"{literal(head)} {body_of(rules, schema, place)} {literal(shape.tail)}"
