"""What a client says that its text belongs to: a repository, a project."""

from typing import Any

from litestar import Request

from appliance.errors import InvalidInput

HEADER = "X-Labels"
_NAME = HEADER.lower().encode()
_MOST = 64
_LONGEST = 200


def labels_of(request: Request[Any, Any, Any], in_metadata: str = "") -> tuple[str, ...]:
    """The labels of the headers and of the body's metadata, each once. Raises InvalidInput."""
    given = [_text(value) for name, value in request.scope["headers"] if name == _NAME]
    if not given and not in_metadata:
        return ()
    words = (word.strip() for part in (*given, in_metadata) for word in part.split(","))
    found = tuple(dict.fromkeys(word for word in words if word))
    if len(found) > _MOST:
        raise InvalidInput.at(HEADER, f"at most {_MOST} labels are possible")
    if any(len(label) > _LONGEST for label in found):
        raise InvalidInput.at(HEADER, f"a label has at most {_LONGEST} characters")
    return found


def _text(value: bytes) -> str:
    """A header's value, as the UTF-8 that it is."""
    try:
        return value.decode()
    except UnicodeError:
        raise InvalidInput.at(HEADER, "must be text in UTF-8") from None
