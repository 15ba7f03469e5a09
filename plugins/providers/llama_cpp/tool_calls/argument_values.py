"""Arguments that a model wrote as plain text, and the JSON values that they stand for."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.json_schema.normalize import (
    KEYWORDS,
    KINDS,
    Document,
    Schema,
)

_TEXT = frozenset({"string"})
# As Python writes them, and templates with it.
_PYTHON = {"True": True, "False": False, "None": None}
_PLACE = "parameters"


def kinds_of(parameters: Mapping[str, Any], name: str) -> frozenset[str]:
    """The JSON types that a function's parameter may have; an undeclared one is a text."""
    properties: Any = parameters.get("properties")
    if not isinstance(properties, Mapping) or name not in properties:
        return _TEXT
    schema = cast(Mapping[str, Any], properties)[name]
    try:
        variants = Document(parameters, _PLACE).variants(schema, _PLACE)
    except InvalidInput:
        # Other types than these it can't have, whatever else is said of it.
        return frozenset(KINDS)
    return frozenset(kind for variant in variants for kind in kinds_in(variant))


def value_of(text: str, kinds: frozenset[str]) -> Any:
    """The value of one of these types, else the text itself."""
    if kinds <= _TEXT:
        return text
    try:
        value = _parsed(text.strip())
    except (ValueError, RecursionError):
        return text
    fits = not isinstance(value, str) and _kind(value) & kinds
    return value if fits or not kinds & _TEXT else text


def _parsed(text: str) -> Any:
    return _PYTHON[text] if text in _PYTHON else json.loads(text, parse_constant=_refuse)


def kinds_in(variant: Schema) -> frozenset[str]:
    """The JSON types that a schema without references and combinations allows."""
    if "enum" in variant:
        return frozenset(kind for value in variant["enum"] for kind in _kind(value))
    told = [kind for kind, keys in KEYWORDS.items() if any(key in variant for key in keys)]
    return frozenset(variant.get("type") or told or KINDS)


def _kind(value: Any) -> frozenset[str]:
    """The names that JSON schemas have for a value's type."""
    match value:
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number"})
        case str():
            return _TEXT
        case None:
            return frozenset({"null"})
        case _:
            return frozenset({"object" if isinstance(value, Mapping) else "array"})


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
