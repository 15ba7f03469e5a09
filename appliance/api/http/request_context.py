"""Accessors for what a request carries in its ASGI scope."""

import re
from typing import Any, cast

from litestar.types import Scope

from appliance.api.http.ids import new_id
from appliance.api.http.rate_limit import RateStatus
from appliance.api.http.route_table import RoutePolicy
from appliance.domain.users import Principal

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CREDENTIAL_PREFIXES = ("mk-", "mcr-", "eyJ")  # API keys, refresh tokens, JWTs
_REQUEST_ID = "appliance_request_id"
_RATE_STATUS = "appliance_rate_status"
_POLICY = "appliance_route_policy"
_REFUSED = "appliance_refused"


def assign_request_id(scope: Scope) -> None:
    """Use the client's X-Request-ID if it is well-formed, else a new id.

    The id is logged, so a credential is not taken for one.
    """
    sent = header(scope, b"x-request-id") or ""
    usable = _PLAIN_ID.fullmatch(sent) and not sent.startswith(_CREDENTIAL_PREFIXES)
    _state(scope)[_REQUEST_ID] = sent if usable else new_id("req_")


def request_id(scope: Scope) -> str:
    return _state(scope)[_REQUEST_ID]


def set_rate_status(scope: Scope, window: RateStatus) -> None:
    """Store the caller's rate status for the headers of the response."""
    _state(scope)[_RATE_STATUS] = window


def rate_status(scope: Scope) -> RateStatus | None:
    return _state(scope).get(_RATE_STATUS)


def set_route_policy(scope: Scope, policy: RoutePolicy) -> None:
    """Store the policy of the matched route."""
    _state(scope)[_POLICY] = policy


def route_policy(scope: Scope) -> RoutePolicy | None:
    """The policy of the matched route; None if none matched."""
    return _state(scope).get(_POLICY)


def mark_refused(scope: Scope) -> None:
    """The request waits for its refusal only: its connection may be ended."""
    _state(scope)[_REFUSED] = True


def is_refused(scope: Scope) -> bool:
    return _REFUSED in _state(scope)


def principal(scope: Scope) -> Principal | None:
    """The authenticated caller; None before or without a guard."""
    return _mapping(scope).get("user")


def route_options(scope: Scope) -> dict[str, Any]:
    """The `opt` of the matched route; empty if none matched."""
    route = _mapping(scope).get("route_handler")
    return route.opt if route else {}


def path_template(scope: Scope) -> str | None:
    """The path of the matched route, with the names of its parameters."""
    return _mapping(scope).get("path_template")


def method(scope: Scope) -> str:
    """The HTTP method; GET for a WebSocket, whose handshake is one."""
    return _mapping(scope).get("method", "GET")


def client_address(scope: Scope) -> str:
    """The address of the peer; "" if unknown."""
    client = _mapping(scope).get("client")
    return client[0] if client else ""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which must be in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def _state(scope: Scope) -> dict[str, Any]:
    return _mapping(scope).setdefault("state", {})


def _mapping(scope: Scope) -> dict[str, Any]:
    return cast("dict[str, Any]", scope)
