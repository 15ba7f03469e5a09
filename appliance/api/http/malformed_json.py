"""Says what is wrong with a body that is no JSON text, and where.

The decoder takes half of a surrogate pair near the end for a truncated body, and counts the bytes
of invalid UTF-8 from the beginning of the string.
"""

import json
from typing import Any, cast

from appliance.errors import InvalidInput

_MAX_SEARCHED_BYTES = 128 * 1024
"""Longer bodies are not read a second time, which holds up the event loop."""


def describe_malformed(body: bytes, error: Exception) -> InvalidInput:
    """The error of a decoder as one that names the place, if that can be found."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput.at("body", f"is not valid UTF-8{_find_invalid_byte(body)}")
    place = _find_surrogate(body) if len(body) <= _MAX_SEARCHED_BYTES else None
    if place is None:
        return InvalidInput.at("body", str(error))
    field, character = place
    return InvalidInput.at(
        field or "body",
        f"is not valid Unicode: \\u{ord(character):04x} is half of a surrogate pair; send both "
        "halves or leave it out",
    )


def _find_invalid_byte(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f" (byte {error.start})"
    return ""


def _find_surrogate(body: bytes) -> tuple[str, str] | None:
    """The first half of a surrogate pair and its field; None if the JSON has another fault."""
    try:
        pending: list[tuple[str, Any]] = [("", json.loads(body))]
    except (ValueError, RecursionError):
        return None
    while pending:
        place, value = pending.pop()
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            inner = [(f"{place}.{name}".lstrip("."), each) for name, each in fields.items()]
            pending += [*reversed(inner), *((place, name) for name in fields)]
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            pending += [(f"{place}[{at}]", each) for at, each in enumerate(items)][::-1]
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return place, value[error.start]
    return None
