"""What a client says that its text belongs to: a repository, a project."""

from typing import Any

from litestar import Request

from appliance.errors import InvalidInput

HEADER = "X-Labels"
_MOST = 64


def labels_of(request: Request[Any, Any, Any], in_metadata: str = "") -> tuple[str, ...]:
    """The labels of the header and of the body's metadata, each once. Raises InvalidInput."""
    given = f"{request.headers.get(HEADER, '')},{in_metadata}"
    found = tuple(dict.fromkeys(word for part in given.split(",") if (word := part.strip())))
    if len(found) > _MOST:
        raise InvalidInput.at(HEADER, f"at most {_MOST} labels are possible")
    return found
