"""Turns msgspec's errors into the name of a field and a reason."""

import re
from typing import Any, TypeVar

import msgspec

from appliance.errors import InvalidInput

_MISSING = re.compile(r"Object missing required field `(.+?)`")
_PATH = re.compile(r"`\$(.*)`$")
_NO_BODY = "'data'"  # Litestar's message for a request without a body

T = TypeVar("T")


def convert_field(value: Any, kind: type[T], field: str = "", *, strict: bool = True) -> T:
    """`value`, which stands at `field`, as `kind`. Raises InvalidInput naming the inner field."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise invalid_field(error, field) from None


def invalid_field(error: msgspec.ValidationError, field: str = "") -> InvalidInput:
    """The error as InvalidInput; `field` is where the decoded value stands, "" for the body."""
    path = _PATH.search(str(error))
    inner = path[1] if path else ""
    return InvalidInput.at(*locate_error(f"{field}{inner}".lstrip("."), str(error)))


def locate_error(field: str, message: str) -> tuple[str, str]:
    """(field, reason) of an error at `field` ("" for the body), e.g. ("files[0].path", …)."""
    reason = message.partition(" - at `")[0]
    missing = _MISSING.fullmatch(reason)
    if missing is None:
        return field or "body", "must be a JSON object" if reason == _NO_BODY else reason
    return f"{field}.{missing[1]}".lstrip("."), "is required"
