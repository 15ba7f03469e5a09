"""The grammar of answers that must be, or may be, tool calls."""

import json
from collections.abc import Iterator, Sequence

from appliance.domain.messages import Tool
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.charsets import literal
from plugins.providers.llama_cpp.protocol import CallForm
from plugins.providers.llama_cpp.rules import Rules
from plugins.providers.llama_cpp.schema import schema_rule
from plugins.providers.llama_cpp.tools import CALL_END, CALL_START

_MOST_MORE_CALLS = 15


def call_rule(
    rules: Rules, tools: Sequence[Tool], form: CallForm, *, parallel: bool, marks_arguments: bool
) -> str:
    """The name of a rule for one call, or with `parallel` up to sixteen, in this form.

    Raises InvalidInput for parameters' schemas that no grammar can be made of.
    """
    marked = form is CallForm.LISTED and marks_arguments
    one = rules.add("call", " | ".join(_calls(rules, tools, form, marked=marked)))
    start, between, end = _frame(form, marked=marked)
    several = parallel and form is not CallForm.BARE
    more = f"({literal(between)} {one}){{0,{_MOST_MORE_CALLS}}}" if several else ""
    return rules.add("calls", " ".join(filter(None, (literal(start), one, more, literal(end)))))


def _frame(form: CallForm, *, marked: bool) -> tuple[str, str, str]:
    """What stands before, between and behind the calls."""
    if form is CallForm.TAGGED:
        return f"{CALL_START}\n", f"\n{CALL_END}\n{CALL_START}\n", f"\n{CALL_END}"
    if form is CallForm.BARE:
        return "", "", ""
    return ("[TOOL_CALLS]", "[TOOL_CALLS]", "") if marked else ("[TOOL_CALLS][", ", ", "]")


def _calls(rules: Rules, tools: Sequence[Tool], form: CallForm, *, marked: bool) -> Iterator[str]:
    key = "parameters" if form is CallForm.BARE else "arguments"
    for at, tool in enumerate(tools):
        place = f"tools[{at}].parameters"
        schema = {"type": "object", **tool.parameters}
        if schema["type"] != "object":
            raise InvalidInput.at(f"{place}.type", "a function's parameters are an object")
        arguments = schema_rule(rules, schema, place)
        if marked:
            yield f"{literal(f'{tool.name}[ARGS]')} {arguments}"
        else:
            start = f'{{"name": {json.dumps(tool.name)}, "{key}": '
            yield f'{literal(start)} {arguments} "}}"'
