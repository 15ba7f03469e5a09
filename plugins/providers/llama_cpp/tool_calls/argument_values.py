"""Converts arguments that a model wrote as plain text to values of their declared types."""

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

_STRING = frozenset({"string"})
# Python's literals, which some templates render.
_PYTHON = {"True": True, "False": False, "None": None}
_PLACE = "parameters"


def declared_types(parameters: Mapping[str, Any], name: str) -> frozenset[str]:
    """The JSON types of a function's parameter; an undeclared one is a string."""
    properties: Any = parameters.get("properties")
    if not isinstance(properties, Mapping) or name not in properties:
        return _STRING
    schema = cast(Mapping[str, Any], properties)[name]
    try:
        variants = Document(parameters, _PLACE).variants(schema, _PLACE)
    except InvalidInput:
        # The schema is not supported: allow every type.
        return frozenset(KINDS)
    return frozenset(type_ for variant in variants for type_ in allowed_types(variant))


def parse_value(text: str, types: frozenset[str]) -> Any:
    """The value if it is of one of these types, else the text itself."""
    if types <= _STRING:
        return text
    try:
        value = _parse_literal(text.strip())
    except (ValueError, RecursionError):
        return text
    fits = not isinstance(value, str) and _json_types(value) & types
    return value if fits or not types & _STRING else text


def _parse_literal(text: str) -> Any:
    return _PYTHON[text] if text in _PYTHON else json.loads(text, parse_constant=_reject_constant)


def allowed_types(variant: Schema) -> frozenset[str]:
    """The JSON types that a normalized schema allows."""
    if "enum" in variant:
        return frozenset(type_ for value in variant["enum"] for type_ in _json_types(value))
    implied = [kind for kind, keys in KEYWORDS.items() if any(key in variant for key in keys)]
    return frozenset(variant.get("type") or implied or KINDS)


def _json_types(value: Any) -> frozenset[str]:
    """The JSON schema types of a value."""
    match value:
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number"})
        case str():
            return _STRING
        case None:
            return frozenset({"null"})
        case _:
            return frozenset({"object" if isinstance(value, Mapping) else "array"})


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
