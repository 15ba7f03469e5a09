"""Who makes a request: found and limited before anything else of it is read."""

from typing import NamedTuple

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from appliance.api import context
from appliance.api.limits import RateLimiter, address_key
from appliance.domain.users import Principal, Role
from appliance.errors import Forbidden, Unauthenticated
from appliance.services.container import Services

SESSION_COOKIE = "async_coder_session"
REFRESH_COOKIE = "async_coder_refresh"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[BaseRouteHandler, Principal, None, object]


class Credential(NamedTuple):
    """A JWT or an API key, and whether the browser sent it by itself."""

    value: str
    from_cookie: bool


class Gate:
    """The guards of every dialect."""

    def __init__(
        self, services: Services, limiter: RateLimiter, allowed_origins: tuple[str, ...]
    ) -> None:
        self._services = services
        self._limiter = limiter
        self._origins = allowed_origins

    async def authenticated(self, connection: Connection, _: BaseRouteHandler) -> None:
        """Sets the request's Principal. Raises Unauthenticated, Forbidden or RateLimited."""
        try:
            principal = await self._identify(connection)
        except Unauthenticated:
            # Guessing credentials is limited like everything else, by address.
            self._count(connection, self._address(connection))
            raise
        connection.scope["user"] = principal
        self._count(connection, f"user:{principal.user.id}")

    async def public(self, connection: Connection, _: BaseRouteHandler) -> None:
        """For routes that need no login: limits by address. Raises RateLimited."""
        self._count(connection, self._address(connection))
        self.check_origin(connection, REFRESH_COOKIE)

    async def administrator(self, connection: Connection, handler: BaseRouteHandler) -> None:
        await self.authenticated(connection, handler)
        if connection.scope["user"].user.role is not Role.ADMIN:
            raise Forbidden("only an administrator may see this")

    def check_origin(self, connection: Connection, cookie: str) -> None:
        """An unsafe request that lives on a cookie must come from a page that may send it."""
        if connection.scope.get("method") in _SAFE or cookie not in connection.cookies:
            return
        origin = connection.headers.get("origin")
        own = f"{connection.scope['scheme']}://{connection.headers.get('host', '')}"
        if origin is None or (origin != own and origin not in self._origins):
            raise Forbidden(
                "a request that is authenticated by a cookie needs an Origin header of this "
                "box; programs send Authorization: Bearer instead"
            )

    async def _identify(self, connection: Connection) -> Principal:
        credential = find_credential(connection)
        if credential is None:
            raise Unauthenticated(
                "credentials are missing: send Authorization: Bearer <token or mk- key>, "
                "or X-API-Key"
            )
        if credential.from_cookie:
            self.check_origin(connection, SESSION_COOKIE)
        return await self._services.accounts.authenticate(credential.value)

    def _count(self, connection: Connection, caller: str) -> None:
        context.remember_window(connection.scope, self._limiter.peek(caller))
        context.remember_window(connection.scope, self._limiter.take(caller))

    def _address(self, connection: Connection) -> str:
        return address_key(context.client_address(connection.scope))


def find_credential(connection: Connection) -> Credential | None:
    """The first of Authorization, X-API-Key and the session cookie that holds something."""
    scheme, _, token = (connection.headers.get("authorization") or "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Credential(token.strip(), from_cookie=False)
    if key := (connection.headers.get("x-api-key") or "").strip():
        return Credential(key, from_cookie=False)
    if session := connection.cookies.get(SESSION_COOKIE):
        return Credential(session, from_cookie=True)
    return None
