"""What msgspec says is wrong, as a field's name and a reason."""

import re

_MISSING = re.compile(r"Object missing required field `(.+?)`")
_NO_BODY = "'data'"  # what the framework says where there is none


def located(place: str, message: str) -> tuple[str, str]:
    """(field, reason) of a mistake at `place` ("" for the whole), e.g. ("files[0].path", …)."""
    reason = message.partition(" - at `")[0]
    missing = _MISSING.fullmatch(reason)
    if missing is None:
        return place or "body", "a JSON object is needed" if reason == _NO_BODY else reason
    return f"{place}.{missing[1]}".lstrip("."), "is required"
