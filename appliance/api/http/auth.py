"""Guards: authenticate the caller and apply the rate limit, before the body is read."""

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
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[Any, Any, Any, Any]


class Credential(NamedTuple):
    """A JWT or an API key. Browsers attach cookies to requests of any page: see check_origin."""

    value: str
    from_cookie: bool


@dataclass(frozen=True)
class GuardState:
    """What the guards use; in the application's state under "guard_state"."""

    services: Services
    limiter: RateLimiter
    allowed_origins: tuple[str, ...]


async def require_authentication(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: sets the request's Principal. Raises Unauthenticated, Forbidden, RateLimited."""
    state = _guard_state(connection)
    try:
        principal = await _authenticate(connection, state)
    except Unauthenticated:
        # Guesses count against the limit of the client's address.
        _count_request(connection, state, _address_key(connection))
        raise
    connection.scope["user"] = principal
    _count_request(connection, state, f"user:{principal.user.id}")


async def require_administrator(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard: as `require_authentication`, and the user must be an administrator."""
    await require_authentication(connection, handler)
    if connection.scope["user"].user.role is not Role.ADMIN:
        raise Forbidden("requires the role admin")


def allow_anonymous(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of routes without login: limits requests by address. Raises RateLimited."""
    _count_request(connection, _guard_state(connection), _address_key(connection))


def find_credential(connection: Connection) -> Credential | None:
    """The first non-empty one of Authorization, X-API-Key and the session cookie."""
    scope = connection.scope
    scheme, _, token = (
        (request_context.header(scope, b"authorization") or "").strip().partition(" ")
    )
    if scheme.lower() == "bearer" and token.strip():
        return Credential(token.strip(), from_cookie=False)
    if scheme.startswith(KEY_PREFIX) and not token:  # Piston's clients send the bare key
        return Credential(scheme, from_cookie=False)
    if key := (request_context.header(scope, b"x-api-key") or "").strip():
        return Credential(key, from_cookie=False)
    if session := connection.cookies.get(SESSION_COOKIE):
        return Credential(session, from_cookie=True)
    return None


def check_origin(connection: Connection, allowed_origins: tuple[str, ...]) -> None:
    """Protect cookies against requests of other sites (CSRF). Raises Forbidden.

    Unsafe methods need an Origin of this server or of `allowed_origins`. So does a
    WebSocket: browsers open one for any page.
    """
    scope = connection.scope
    if scope["type"] == "http" and request_context.method(scope) in _SAFE_METHODS:
        return
    origin = connection.headers.get("origin")
    own_host = connection.headers.get("host")
    if origin is None or (urlsplit(origin).netloc != own_host and origin not in allowed_origins):
        raise Forbidden(
            "a request authenticated by a cookie needs an Origin header of this server; "
            "programs send Authorization: Bearer instead"
        )


async def _authenticate(connection: Connection, state: GuardState) -> Principal:
    credential = find_credential(connection)
    if credential is None:
        raise Unauthenticated(
            "credentials are missing: send Authorization: Bearer <token or mk- key>, or X-API-Key"
        )
    if credential.from_cookie:
        check_origin(connection, state.allowed_origins)
    return await state.services.accounts.authenticate(credential.value)


def _count_request(connection: Connection, state: GuardState, caller: str) -> None:
    try:
        window = state.limiter.take(caller)
    except RateLimited:
        request_context.set_rate_status(connection.scope, state.limiter.peek(caller))
        raise
    request_context.set_rate_status(connection.scope, window)


def _guard_state(connection: Connection) -> GuardState:
    return connection.app.state["guard_state"]


def _address_key(connection: Connection) -> str:
    return address_key(request_context.client_address(connection.scope))
