"""The grammar of a call's parameters in Qwen3-Coder's XML.

Strings are written unquoted up to the end tag, which they therefore can't contain; a
string with a length, pattern or format can't contain `<` at all. Other values are JSON.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import (
    EVERYTHING,
    Ranges,
    char_class,
    common,
    literal,
    minus,
)
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule
from plugins.providers.llama_cpp.grammar.json_schema.normalize import KEYWORDS, Document, Schema
from plugins.providers.llama_cpp.grammar.json_schema.strings import Writing, string_body
from plugins.providers.llama_cpp.tool_calls.argument_values import allowed_types, declared_types
from plugins.providers.llama_cpp.tool_calls.markers import PARAMETER_END, PARAMETER_START

_STRING = "string"
_END = ord(PARAMETER_END[0])
_LINE: Ranges = ((0x09, 0x0A), (0x0D, 0x0D))
_CONTROLS: Ranges = minus(((0x00, 0x1F), (0x7F, 0x7F)), _LINE)
_CHARACTERS: Ranges = minus(EVERYTHING, _CONTROLS)
_INNER: Ranges = minus(_CHARACTERS, ((_END, _END),))


def _one_of(characters: Ranges) -> str:
    allowed = common(characters, _INNER)
    return char_class(allowed) if allowed else ""


_UNQUOTED = Writing(lambda rules: rules.add("character", char_class(_INNER)), _one_of)


def parameters_rule(rules: Rules, schema: Schema, place: str) -> str:
    """GBNF of the parameters that satisfy a function's schema, in their declared order.

    Raises InvalidInput for what this format can't express.
    """
    declared: Any = schema.get("properties", {})
    required: Any = schema.get("required", ())
    if not isinstance(declared, Mapping):
        raise InvalidInput.at(f"{place}.properties", "must be an object")
    if not isinstance(required, list | tuple):
        raise InvalidInput.at(f"{place}.required", "must be a list of names")
    names = cast(list[Any], required)
    parts = [
        _parameter(rules, schema, name, place) + ("" if name in names else "?")
        for name in cast(Mapping[str, Any], declared)
    ]
    return " ".join([*parts, *_undeclared(rules, schema, names, place)])


def _undeclared(rules: Rules, schema: Schema, required: list[Any], place: str) -> Iterator[str]:
    """Parameters that are required but not declared: strings."""
    for name in required:
        if not isinstance(name, str):
            raise InvalidInput.at(f"{place}.required", "must be a list of names")
        if name not in schema.get("properties", {}):
            yield _element(rules, name, _any_string(rules), place)


def _parameter(rules: Rules, schema: Schema, name: str, place: str) -> str:
    place = f"{place}.properties.{name}"
    return _element(rules, name, _value(rules, schema, name, place), place)


def _element(rules: Rules, name: str, value: str, place: str) -> str:
    if not name or set(name) & set(">\n"):
        raise InvalidInput.at(
            place, "the name must not be empty or contain > or a line end, for this model"
        )
    start, end = f"{PARAMETER_START}{name}>\n", f"\n{PARAMETER_END}\n"
    return rules.add("parameter", f"{literal(start)} {value} {literal(end)}")


def _value(rules: Rules, schema: Schema, name: str, place: str) -> str:
    value = schema["properties"][name]
    if _STRING not in declared_types(schema, name):
        return schema_rule(rules, value, place, whole=schema)
    variants = Document(schema, place).variants(value, place)
    return rules.add("text", " | ".join(_text(rules, variant, place) for variant in variants))


def _text(rules: Rules, variant: Schema, place: str) -> str:
    """A value that may be a string: any string, unless keywords for strings restrict it."""
    if "enum" in variant:
        return " | ".join(literal(_render_enum(value, place)) for value in variant["enum"])
    if _STRING not in allowed_types(variant):
        return schema_rule(rules, variant, place)
    bound = any(key in variant for key in KEYWORDS[_STRING])
    return string_body(rules, variant, place, _UNQUOTED) if bound else _any_string(rules)


def _render_enum(value: Any, place: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if PARAMETER_END in text:
        raise InvalidInput.at(f"{place}.enum", f"must not contain {PARAMETER_END}, for this model")
    return text


def _any_string(rules: Rules) -> str:
    """Any string that does not contain the end tag.

    A `<` starts a proper prefix of the tag, which another `<` or another character ends.
    """
    first, rest = literal(PARAMETER_END[0]), PARAMETER_END[1:]
    repeated, mismatch = f"({first} {_prefix(rest[:-1])})*", f"{first} {_mismatch(rest)}"
    return rules.add("free", f"({char_class(_INNER)} | {repeated} {mismatch})*")


def _prefix(text: str) -> str:
    """GBNF of any prefix of a text, the empty one included."""
    return f"({literal(text[0])} {_prefix(text[1:])})?" if text else '""'


def _mismatch(text: str) -> str:
    """GBNF of a prefix of a text and a character, not `<`, that does not continue it."""
    expected = ord(text[0])
    other = char_class(minus(_INNER, ((expected, expected),)))
    return f"({other} | {literal(text[0])} {_mismatch(text[1:])})" if text[1:] else other
