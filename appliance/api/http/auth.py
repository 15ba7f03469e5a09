"""Who makes a request: found and limited before anything else of it is read."""

from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from appliance.api.http import request_context
from appliance.api.http.rate_limit import RateLimiter, address_key
from appliance.domain.users import Principal, Role
from appliance.errors import Forbidden, RateLimited, Unauthenticated
from appliance.services.accounts.tokens import KEY_PREFIX
from appliance.services.container import Services

SESSION_COOKIE = "async_coder_session"
REFRESH_COOKIE = "async_coder_refresh"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[Any, Any, Any, Any]


class Credential(NamedTuple):
    """A JWT or an API key, and whether the browser sent it by itself."""

    value: str
    from_cookie: bool


@dataclass(frozen=True)
class Gate:
    """What the guards work with; the application's state holds it under "gate"."""

    services: Services
    limiter: RateLimiter
    allowed_origins: tuple[str, ...]


async def authenticated(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: sets the request's Principal. Raises Unauthenticated, Forbidden, RateLimited."""
    gate = _gate(connection)
    try:
        principal = await _identify(connection, gate)
    except Unauthenticated:
        # Guessing credentials is limited like everything else, by address.
        _count(connection, gate, _address(connection))
        raise
    connection.scope["user"] = principal
    _count(connection, gate, f"user:{principal.user.id}")


async def administrator(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard: as `authenticated`, and the user must be an administrator."""
    await authenticated(connection, handler)
    if connection.scope["user"].user.role is not Role.ADMIN:
        raise Forbidden("only an administrator may see this")


def public(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of routes that need no login: limits by address. Raises RateLimited."""
    _count(connection, _gate(connection), _address(connection))


def find_credential(connection: Connection) -> Credential | None:
    """The first of Authorization, X-API-Key and the session cookie that holds something."""
    scope = connection.scope
    scheme, _, token = (
        (request_context.header(scope, b"authorization") or "").strip().partition(" ")
    )
    if scheme.lower() == "bearer" and token.strip():
        return Credential(token.strip(), from_cookie=False)
    if scheme.startswith(KEY_PREFIX) and not token:  # as Piston's clients send it
        return Credential(scheme, from_cookie=False)
    if key := (request_context.header(scope, b"x-api-key") or "").strip():
        return Credential(key, from_cookie=False)
    if session := connection.cookies.get(SESSION_COOKIE):
        return Credential(session, from_cookie=True)
    return None


def check_origin(connection: Connection, allowed: tuple[str, ...]) -> None:
    """An unsafe request that lives on a cookie must come from a page that may send it.

    So must a WebSocket, which browsers open for any page.
    """
    scope = connection.scope
    if scope["type"] == "http" and request_context.method(scope) in _SAFE:
        return
    origin = connection.headers.get("origin")
    own = connection.headers.get("host")
    if origin is None or (urlsplit(origin).netloc != own and origin not in allowed):
        raise Forbidden(
            "a request that is authenticated by a cookie needs an Origin header of this box; "
            "programs send Authorization: Bearer instead"
        )


async def _identify(connection: Connection, gate: Gate) -> Principal:
    credential = find_credential(connection)
    if credential is None:
        raise Unauthenticated(
            "credentials are missing: send Authorization: Bearer <token or mk- key>, or X-API-Key"
        )
    if credential.from_cookie:
        check_origin(connection, gate.allowed_origins)
    return await gate.services.accounts.authenticate(credential.value)


def _count(connection: Connection, gate: Gate, caller: str) -> None:
    try:
        window = gate.limiter.take(caller)
    except RateLimited:
        request_context.remember_window(connection.scope, gate.limiter.peek(caller))
        raise
    request_context.remember_window(connection.scope, window)


def _gate(connection: Connection) -> Gate:
    return connection.app.state["gate"]


def _address(connection: Connection) -> str:
    return address_key(request_context.client_address(connection.scope))
