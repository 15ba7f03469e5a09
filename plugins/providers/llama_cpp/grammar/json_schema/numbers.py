"""GBNF of a JSON schema's numbers within minimum and maximum."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.json_schema.normalize import Schema
from plugins.providers.llama_cpp.grammar.number_ranges import (
    DIGITS_BEFORE,
    Bound,
    decimals,
    integers,
)


def integer_body(schema: Schema, place: str) -> str:
    """GBNF of the whole numbers that fulfil the schema's keywords. Raises InvalidInput."""
    _check_step(schema, place, whole=True)
    low, high = _limits(schema, place)
    if low is None and high is None:
        return "integer"
    least = most = None
    if low is not None:
        least = math.floor(low.value) + 1 if low.open else math.ceil(low.value)
    if high is not None:
        most = math.ceil(high.value) - 1 if high.open else math.floor(high.value)
    return _some(integers(least, most), place)


def number_body(schema: Schema, place: str) -> str:
    """GBNF of the numbers that fulfil the schema's keywords. Raises InvalidInput."""
    _check_step(schema, place, whole=False)
    low, high = _limits(schema, place)
    return "number" if low is None and high is None else _some(decimals(low, high), place)


def _some(ways: str, place: str) -> str:
    if not ways:
        raise InvalidInput.at(place, "no number satisfies its bounds")
    return ways


def _check_step(schema: Schema, place: str, *, whole: bool) -> None:
    if "multipleOf" in schema and not (whole and schema["multipleOf"] == 1):
        raise InvalidInput.at(f"{place}.multipleOf", "is not supported")


def _limits(schema: Schema, place: str) -> tuple[Bound | None, Bound | None]:
    """The tighter of the open and the closed bound on either side, the open one if alike."""
    low = _bounds(schema, "exclusiveMinimum", "minimum", place)
    high = _bounds(schema, "exclusiveMaximum", "maximum", place)
    return (
        max(low, key=lambda bound: bound.value, default=None),
        min(high, key=lambda bound: bound.value, default=None),
    )


def _bounds(schema: Schema, outside: str, inside: str, place: str) -> list[Bound]:
    found = ((key, _decimal(schema, key, place)) for key in (outside, inside))
    return [Bound(value, is_open=key == outside) for key, value in found if value is not None]


def _decimal(schema: Mapping[str, Any], key: str, place: str) -> Decimal | None:
    """None where the numbers that are written never reach so far out."""
    value: Any = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput.at(f"{place}.{key}", "must be a number")
    exact = Decimal(str(value))
    if abs(exact) < Decimal(10) ** DIGITS_BEFORE:
        return exact
    if (exact > 0) == key.endswith("aximum"):
        return None
    raise InvalidInput.at(f"{place}.{key}", f"must have at most {DIGITS_BEFORE} digits")
