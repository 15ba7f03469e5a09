"""Compares the outcome of a call with the value that an example expects."""

import math
from collections.abc import Sequence
from typing import Any, cast

from appliance.agents.code import python_source
from appliance.agents.verification.examples import Example
from appliance.agents.verification.sandbox_harness import CallOutcome

_TOLERANCE = 1e-6


def matches(example: Example, outcome: CallOutcome) -> bool:
    """Whether the value is equal (floats within a tolerance); for a doctest, also the output."""
    if example.doctest:
        return _matches_doctest(example.expected, outcome)
    return not outcome.error and values_equal(outcome.value or "None", example.expected)


def values_equal(one: str, other: str) -> bool:
    """Whether two Python literals, as text, have the same value."""
    if one.strip() == other.strip():
        return True
    first, second = (
        python_source.parse_literal(one.strip()),
        python_source.parse_literal(other.strip()),
    )
    return first is not None and second is not None and _objects_equal(first[0], second[0])


def _matches_doctest(expected: str, outcome: CallOutcome) -> bool:
    """Whether an interactive session would show this: printed text, then the value unless None."""
    if outcome.error:
        error = expected.rsplit("\n", 1)[-1].split(":", 1)[0].strip()
        return expected.startswith("Traceback") and outcome.error.split(":", 1)[0] == error
    shown = outcome.printed + (outcome.value or "")
    if _stripped_lines(shown) == _stripped_lines(expected):
        return True
    if outcome.value is None and expected.strip() != "None":
        return False
    return not outcome.printed and values_equal(outcome.value or "None", expected)


def _stripped_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _objects_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if (isinstance(one, list) and isinstance(other, list)) or (
        isinstance(one, tuple) and isinstance(other, tuple)
    ):
        first, second = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(first) == len(second) and all(map(_objects_equal, first, second))
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[Any, Any]", one), cast("dict[Any, Any]", other)
        return left.keys() == right.keys() and all(_objects_equal(left[k], right[k]) for k in left)
    return bool(one == other)
