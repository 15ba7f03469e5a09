"""Whether what a call answered is what an example says."""

import math
from collections.abc import Sequence
from typing import Any, cast

from appliance.agents.code import python_source
from appliance.agents.verification.examples import Example
from appliance.agents.verification.sandbox_harness import Answered

_CLOSE = 1e-6


def meets(example: Example, answered: Answered) -> bool:
    """Compare values as Python does, floats within rounding; a doctest also by its text."""
    if example.doctest:
        return _shows(example.expected, answered)
    return not answered.error and same_value(answered.value or "None", example.expected)


def same_value(one: str, other: str) -> bool:
    """Whether two texts of values mean the same value."""
    if one.strip() == other.strip():
        return True
    first, second = python_source.literal(one.strip()), python_source.literal(other.strip())
    return first is not None and second is not None and _equal(first[0], second[0])


def _shows(expected: str, answered: Answered) -> bool:
    """What an interactive session would show: printed text, then the value unless None."""
    if answered.error:
        error = expected.rsplit("\n", 1)[-1].split(":", 1)[0].strip()
        return expected.startswith("Traceback") and answered.error.split(":", 1)[0] == error
    shown = answered.printed + (answered.value or "")
    if _lines(shown) == _lines(expected):
        return True
    if answered.value is None and expected.strip() != "None":
        return False
    return not answered.printed and same_value(answered.value or "None", expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
    if (isinstance(one, list) and isinstance(other, list)) or (
        isinstance(one, tuple) and isinstance(other, tuple)
    ):
        first, second = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[Any, Any]", one), cast("dict[Any, Any]", other)
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return bool(one == other)
