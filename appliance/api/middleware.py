"""What every answer goes through, found path or not."""

import re
import time

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from appliance.api import context
from appliance.api.dialects import Dialects, Headers
from appliance.api.limits import RateLimiter, Window, address_key

_SLASHES = re.compile("/{2,}")
_SECURITY: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"1; mode=block"),
    (b"referrer-policy", b"no-referrer"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_NO_STORE = (b"cache-control", b"no-store")


class Envelope:
    """Gives a request its id and its plain path, and the answer its common headers."""

    def __init__(self, app: ASGIApp, dialects: Dialects, limiter: RateLimiter) -> None:
        self._app = app
        self._dialects = dialects
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        identity = context.begin(scope)
        scope["path"] = path = _SLASHES.sub("/", scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                elapsed = time.perf_counter() - started
                given = list(message.get("headers", []))
                message["headers"] = given + self._missing(scope, path, given, elapsed)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=identity):
            await self._app(scope, receive, send_with_headers)

    def _missing(
        self, scope: HTTPScope, path: str, given: Headers, elapsed: float
    ) -> Headers:
        """The common headers, less those that the handler chose itself."""
        chosen = {name.lower() for name, _ in given}
        common = [(b"x-request-id", context.request_id(scope).encode()), _NO_STORE, *_SECURITY]
        if scope["scheme"] == "https":
            common.append(_HSTS)
        common += self._dialects.of(path).headers(self._window(scope), elapsed)
        return [(name, value) for name, value in common if name not in chosen]

    def _window(self, scope: HTTPScope) -> Window:
        known = context.rate_window(scope)
        return known or self._limiter.peek(address_key(context.client_address(scope)))
