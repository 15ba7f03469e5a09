"""The guard: who may call a route, and how often, decided before the body is read."""

from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from appliance.api.http import request_context
from appliance.api.http.origins import is_same_origin
from appliance.api.http.rate_limit import RateLimiter, TooManyRequests, address_key
from appliance.api.http.route_table import WEBSOCKET, RouteClass, RoutePolicy, RouteTable
from appliance.domain.users import Principal
from appliance.errors import Forbidden, Unauthenticated
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import permissions
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
    """What the guard uses; in the application's state under "guard_state"."""

    routes: RouteTable
    services: Services
    limiter: RateLimiter
    allowed_origins: tuple[str, ...]


async def enforce_route_policy(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard of every route: enforces its row of the route table and sets the Principal.

    Raises Unauthenticated, Forbidden, RateLimited.
    """
    scope, state = connection.scope, _guard_state(connection)
    if scope["type"] == "http" and scope["method"] == "OPTIONS":
        return  # Litestar's own answer, which lists the methods as a 405 does
    method = scope["method"] if scope["type"] == "http" else WEBSOCKET
    policy = state.routes.find(method, request_context.path_template(scope) or "")
    request_context.set_route_policy(scope, policy)
    if scope["type"] == "websocket":
        _take_query_token(scope)
    if not policy.public:
        credential = find_credential(connection)
        if credential is not None or not policy.route.first_message:
            await _authorize(connection, state, policy, credential)
    elif policy.route.route_class is RouteClass.LOGIN:
        await _count_request(connection, state, policy)


async def authorize_token(connection: Connection, token: str) -> Principal:
    """Authenticate the caller of a WebSocket by its first message, as the guard does by headers.

    Raises Unauthenticated, Forbidden, RateLimited.
    """
    policy = request_context.route_policy(connection.scope)
    if policy is None:
        raise Unauthenticated("credentials are missing")
    credential = Credential(token, from_cookie=False)
    return await _authorize(connection, _guard_state(connection), policy, credential)


async def _authorize(
    connection: Connection, state: GuardState, policy: RoutePolicy, credential: Credential | None
) -> Principal:
    """Authenticate the caller, who needs the role and the scopes of the route."""
    try:
        principal = await _authenticate(connection, state, credential)
    except Unauthenticated as error:
        # Guesses count against the limit of the client's address.
        await _count_request(connection, state, policy)
        if credential is not None:
            log_security_event(
                SecurityEvent.CREDENTIAL_REJECTED,
                client=request_context.client_address(connection.scope),
                reason=error.code,
            )
        raise
    connection.scope["user"] = principal
    await _count_request(connection, state, policy, principal)
    if policy.route.role is not None:
        permissions.require_role(principal, policy.route.role)
    for scope in policy.route.scopes:
        permissions.require_scope(principal, scope)
    return principal


def find_credential(connection: Connection) -> Credential | None:
    """The first non-empty one of Authorization, X-API-Key and the session cookie.

    For a WebSocket, to which a page of a browser can give no headers, `?token=` comes before the
    cookie.
    """
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
    if scope["type"] == "websocket" and (token := request_context.query_token(scope)):
        return Credential(token, from_cookie=False)
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
    if origin is None or (origin not in allowed_origins and not is_same_origin(scope, origin)):
        raise Forbidden(
            "a request authenticated by a cookie needs an Origin header with the scheme, host and "
            "port of this server (a reverse proxy that ends TLS belongs into "
            "server.trusted_proxies); programs send Authorization: Bearer instead"
        )


def _take_query_token(scope: Scope) -> None:
    """Remove `token` from the query, so that nothing that shows an address shows it."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    token = next((value for name, value in query if name == "token"), None)
    if token is not None:
        rest = [(name, value) for name, value in query if name != "token"]
        scope["query_string"] = urlencode(rest).encode()
        request_context.set_query_token(scope, token.strip())


async def _authenticate(
    connection: Connection, state: GuardState, credential: Credential | None
) -> Principal:
    if credential is None:
        raise Unauthenticated(
            "credentials are missing: send Authorization: Bearer <token or mk- key>, or X-API-Key"
        )
    if credential.from_cookie:
        check_origin(connection, state.allowed_origins)
    return await state.services.accounts.authenticate(credential.value)


async def _count_request(
    connection: Connection,
    state: GuardState,
    policy: RoutePolicy,
    principal: Principal | None = None,
) -> None:
    """Count a request of the principal, or else of the client's address."""
    scope = connection.scope
    if principal is None:
        caller, plan = address_key(request_context.client_address(scope)), ""
    else:
        caller, plan = f"user:{principal.user.id}", principal.user.plan
    try:
        status = await state.limiter.take(
            caller, plan=plan, dialect=policy.dialect, route_class=policy.route.route_class
        )
    except TooManyRequests as error:
        request_context.set_rate_status(scope, error.status)
        raise
    request_context.set_rate_status(scope, status)


def _guard_state(connection: Connection) -> GuardState:
    return connection.app.state["guard_state"]
