"""What one request carries through the API, kept in its ASGI scope."""

import re
from typing import Any, cast

from litestar.types import Scope

from appliance.api.http.ids import new_id
from appliance.api.http.rate_limit import Window
from appliance.domain.users import Principal

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ID = "box_request_id"
_WINDOW = "box_rate_window"


def begin(scope: Scope) -> None:
    """Give the request its id: the client's own if that is short and plain."""
    given = header(scope, b"x-request-id") or ""
    chosen = given if _SANE_ID.fullmatch(given) else new_id("req_")
    _state(scope)[_ID] = chosen


def request_id(scope: Scope) -> str:
    return _state(scope)[_ID]


def remember_window(scope: Scope, window: Window) -> None:
    """Keep the caller's rate window for the headers of the answer."""
    _state(scope)[_WINDOW] = window


def rate_window(scope: Scope) -> Window | None:
    return _state(scope).get(_WINDOW)


def principal(scope: Scope) -> Principal | None:
    """Who makes the request, once the guard has found out."""
    return _mapping(scope).get("user")


def route_options(scope: Scope) -> dict[str, Any]:
    """The `opt` of the matched route; empty where none matched."""
    route = _mapping(scope).get("route_handler")
    return route.opt if route else {}


def path_template(scope: Scope) -> str | None:
    """The matched route's path, with its parameters by name."""
    return _mapping(scope).get("path_template")


def method(scope: Scope) -> str:
    """The HTTP method; a WebSocket counts as a GET, which it starts as."""
    return _mapping(scope).get("method", "GET")


def client_address(scope: Scope) -> str:
    """The address of the peer, "" where the server does not know it."""
    client = _mapping(scope).get("client")
    return client[0] if client else ""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def _state(scope: Scope) -> dict[str, Any]:
    return _mapping(scope).setdefault("state", {})


def _mapping(scope: Scope) -> dict[str, Any]:
    return cast("dict[str, Any]", scope)
