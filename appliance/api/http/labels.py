"""Labels: what a request belongs to, such as a repository or a project (X-Labels)."""

from typing import Any

from litestar import Request

from appliance.errors import InvalidInput

HEADER = "X-Labels"
_NAME = HEADER.lower().encode()
_MAX_LABELS = 64
_MAX_LABEL_CHARS = 200


def read_labels(request: Request[Any, Any, Any], in_metadata: str = "") -> tuple[str, ...]:
    """The labels of the headers and of the body's metadata, each once. Raises InvalidInput."""
    values = [_decode_header(value) for name, value in request.scope["headers"] if name == _NAME]
    if not values and not in_metadata:
        return ()
    words = (word.strip() for part in (*values, in_metadata) for word in part.split(","))
    labels = tuple(dict.fromkeys(word for word in words if word))
    if len(labels) > _MAX_LABELS:
        raise InvalidInput.at(
            HEADER, f"has {len(labels)} labels; at most {_MAX_LABELS} are allowed"
        )
    if any(len(label) > _MAX_LABEL_CHARS for label in labels):
        raise InvalidInput.at(HEADER, f"a label is longer than {_MAX_LABEL_CHARS} characters")
    return labels


def _decode_header(value: bytes) -> str:
    """The value of a header, which must be UTF-8."""
    try:
        return value.decode()
    except UnicodeError:
        raise InvalidInput.at(HEADER, "must be text in UTF-8") from None
