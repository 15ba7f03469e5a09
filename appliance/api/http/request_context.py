"""Accessors for what a request carries in its ASGI scope."""

import re
from functools import lru_cache
from typing import Any

from litestar.types import Scope

from appliance.api.http.ids import new_id
from appliance.api.http.rate_limit import RateStatus
from appliance.api.http.route_table import RoutePolicy
from appliance.domain.addresses import client_network
from appliance.domain.users import Principal

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CREDENTIAL_PREFIXES = ("mk-", "mcr-", "eyJ")  # API keys, refresh tokens, JWTs
_REQUEST_ID = "appliance_request_id"
_RATE_STATUS = "appliance_rate_status"
_POLICY = "appliance_route_policy"
_QUERY_TOKEN = "appliance_query_token"  # noqa: S105
_REFUSED = "appliance_refused"

_network = lru_cache(maxsize=1024)(client_network)


def assign_request_id(scope: Scope) -> str:
    """The client's X-Request-ID if it is well-formed, else a new id.

    The id is logged, so a credential is not taken for one.
    """
    sent = header(scope, b"x-request-id") or ""
    usable = _PLAIN_ID.fullmatch(sent) and not sent.startswith(_CREDENTIAL_PREFIXES)
    request_id = scope["state"][_REQUEST_ID] = sent if usable else new_id("req_")
    return request_id


def request_id(scope: Scope) -> str:
    return scope["state"][_REQUEST_ID]


def set_rate_status(scope: Scope, window: RateStatus) -> None:
    """Store the caller's rate status for the headers of the response."""
    scope["state"][_RATE_STATUS] = window


def rate_status(scope: Scope) -> RateStatus | None:
    return scope["state"].get(_RATE_STATUS)


def set_route_policy(scope: Scope, policy: RoutePolicy) -> None:
    """Store the policy of the matched route."""
    scope["state"][_POLICY] = policy


def route_policy(scope: Scope) -> RoutePolicy | None:
    """The policy of the matched route; None if none matched."""
    return scope["state"].get(_POLICY)


def mark_refused(scope: Scope) -> None:
    """The request waits for its refusal only: its connection may be ended."""
    scope["state"][_REFUSED] = True


def is_refused(scope: Scope) -> bool:
    return _REFUSED in scope["state"]


def set_query_token(scope: Scope, token: str) -> None:
    """Store the credential that the guard removed from the query of a WebSocket."""
    scope["state"][_QUERY_TOKEN] = token


def query_token(scope: Scope) -> str | None:
    return scope["state"].get(_QUERY_TOKEN)


def principal(scope: Scope) -> Principal | None:
    """The authenticated caller; None before or without a guard."""
    if "user" not in scope:
        return None
    return scope["user"]


def route_options(scope: Scope) -> dict[str, Any]:
    """The `opt` of the matched route; empty if none matched."""
    return scope["route_handler"].opt if "route_handler" in scope else {}


def path_template(scope: Scope) -> str | None:
    """The path of the matched route, with the names of its parameters."""
    if "path_template" not in scope:
        return None
    return scope["path_template"]


def method(scope: Scope) -> str:
    """The HTTP method; GET for a WebSocket, whose handshake is one."""
    return scope["method"] if scope["type"] == "http" else "GET"


def client_address(scope: Scope) -> str:
    """The address of the peer; "" if unknown."""
    client = scope["client"]
    return client[0] if client else ""


def client_key(scope: Scope) -> str:
    """The address of the peer, or its IPv6 /64 network, under which limits count it."""
    address = client_address(scope)
    return _network(address) if ":" in address else address


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which must be in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
