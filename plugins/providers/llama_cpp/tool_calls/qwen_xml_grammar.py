"""The grammar of a call's parameters in Qwen3-Coder's XML.

Texts stand as they are and end with a mark, which they therefore can't hold; a text whose
length, pattern or format is bound can't hold `<` at all. Other values are JSON.
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
from plugins.providers.llama_cpp.tool_calls.argument_values import kinds_in, kinds_of
from plugins.providers.llama_cpp.tool_calls.markers import PARAMETER_END, PARAMETER_START

_TEXT = "string"
_END = ord(PARAMETER_END[0])
_LINE: Ranges = ((0x09, 0x0A), (0x0D, 0x0D))
_CONTROLS: Ranges = minus(((0x00, 0x1F), (0x7F, 0x7F)), _LINE)
_CHARACTERS: Ranges = minus(EVERYTHING, _CONTROLS)
_INNER: Ranges = minus(_CHARACTERS, ((_END, _END),))


def _one_of(characters: Ranges) -> str:
    allowed = common(characters, _INNER)
    return char_class(allowed) if allowed else ""


_AS_IT_IS = Writing(lambda rules: rules.add("character", char_class(_INNER)), _one_of)


def xml_body(rules: Rules, schema: Schema, place: str) -> str:
    """GBNF of the parameters that fulfil a function's schema, in their declared order.

    Raises InvalidInput for what this form can't hold.
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
    """Parameters that are required all the same: plain texts."""
    for name in required:
        if not isinstance(name, str):
            raise InvalidInput.at(f"{place}.required", "must be a list of names")
        if name not in schema.get("properties", {}):
            yield _element(rules, name, _free_text(rules), place)


def _parameter(rules: Rules, schema: Schema, name: str, place: str) -> str:
    place = f"{place}.properties.{name}"
    return _element(rules, name, _value(rules, schema, name, place), place)


def _element(rules: Rules, name: str, value: str, place: str) -> str:
    if not name or set(name) & set(">\n"):
        raise InvalidInput.at(place, "this model's form of calls has no such name")
    start, end = f"{PARAMETER_START}{name}>\n", f"\n{PARAMETER_END}\n"
    return rules.add("parameter", f"{literal(start)} {value} {literal(end)}")


def _value(rules: Rules, schema: Schema, name: str, place: str) -> str:
    value = schema["properties"][name]
    if _TEXT not in kinds_of(schema, name):
        return schema_rule(rules, value, place, whole=schema)
    variants = Document(schema, place).variants(value, place)
    return rules.add("text", " | ".join(_text(rules, variant, place) for variant in variants))


def _text(rules: Rules, variant: Schema, place: str) -> str:
    """What may be a text may be any text, as far as nothing is said of texts."""
    if "enum" in variant:
        return " | ".join(literal(_written(value, place)) for value in variant["enum"])
    if _TEXT not in kinds_in(variant):
        return schema_rule(rules, variant, place)
    bound = any(key in variant for key in KEYWORDS[_TEXT])
    return string_body(rules, variant, place, _AS_IT_IS) if bound else _free_text(rules)


def _written(value: Any, place: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if PARAMETER_END in text:
        raise InvalidInput.at(f"{place}.enum", f"this model's calls can't hold {PARAMETER_END}")
    return text


def _free_text(rules: Rules) -> str:
    """Any text without the mark that ends it.

    A `<` begins either a part of the mark that another `<` cuts short, or one that
    another character does.
    """
    mark, rest = literal(PARAMETER_END[0]), PARAMETER_END[1:]
    again, broken = f"({mark} {_beginning(rest[:-1])})*", f"{mark} {_broken(rest)}"
    return rules.add("free", f"({char_class(_INNER)} | {again} {broken})*")


def _beginning(text: str) -> str:
    """GBNF of any beginning of a text, the empty one too."""
    return f"({literal(text[0])} {_beginning(text[1:])})?" if text else '""'


def _broken(text: str) -> str:
    """GBNF of a beginning of a text and a character, not `<`, with which it does not go on."""
    next_one = ord(text[0])
    other = char_class(minus(_INNER, ((next_one, next_one),)))
    return f"({other} | {literal(text[0])} {_broken(text[1:])})" if text[1:] else other
