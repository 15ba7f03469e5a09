"""What one request carries through the API, kept in its ASGI scope."""

import re
import secrets
from typing import Any

from litestar.types import Scope

from appliance.api.limits import Window

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ID = "box_request_id"
_WINDOW = "box_rate_window"


def begin(scope: Scope) -> str:
    """Give the request its id: the client's own if that is short and plain."""
    given = header(scope, b"x-request-id") or ""
    chosen = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
    _state(scope)[_ID] = chosen
    return chosen


def request_id(scope: Scope) -> str:
    return str(_state(scope).get(_ID, ""))


def remember_window(scope: Scope, window: Window) -> None:
    """Keep the caller's rate window for the headers of the answer."""
    _state(scope)[_WINDOW] = window


def rate_window(scope: Scope) -> Window | None:
    return _state(scope).get(_WINDOW)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def client_address(scope: Scope) -> str:
    """The address of the peer, "" where the server does not know it."""
    client = scope.get("client")
    return client[0] if client else ""


def _state(scope: Scope) -> dict[str, Any]:
    return scope.setdefault("state", {})
