"""What every answer goes through, found path or not."""

import re
import time

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from appliance import telemetry
from appliance.api.http import request_context
from appliance.api.http.body_drain import RequestBody
from appliance.api.http.dialect import Dialects, Headers
from appliance.api.http.proxies import TrustedProxies
from appliance.api.http.rate_limit import RateLimiter, Window, address_key

_SLASHES = re.compile("/{2,}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ANSWER = 499  # what proxies log for a client that went away first
_SECURITY: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"1; mode=block"),
    (b"referrer-policy", b"no-referrer"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class Envelope:
    """Gives a request its id and its plain path, and the answer its common headers."""

    def __init__(
        self, app: ASGIApp, dialects: Dialects, limiter: RateLimiter, proxies: TrustedProxies
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._dialects = dialects
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            self._proxies.apply(scope)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        self._proxies.apply(scope)
        scope["path"] = path = _SLASHES.sub("/", scope["path"])
        status = _NO_ANSWER
        body = RequestBody(scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", []))
                elapsed = time.perf_counter() - started
                message["headers"] = given + self._missing(scope, path, given, elapsed)
            elif not message.get("more_body", False):
                await body.discard()
            await send(message)

        request_context.begin(scope)
        bound = structlog.contextvars.bind_contextvars(request_id=request_context.request_id(scope))
        try:
            await self._app(scope, body.receive, send_with_headers)
        finally:
            structlog.contextvars.reset_contextvars(**bound)
            _observe(scope, status, time.perf_counter() - started)

    def _missing(self, scope: HTTPScope, path: str, given: Headers, elapsed: float) -> Headers:
        """The common headers, less those that the handler chose itself."""
        chosen = {name.lower() for name, _ in given}
        common = [(b"x-request-id", request_context.request_id(scope).encode()), *_SECURITY]
        if scope["scheme"] == "https":
            common.append(_HSTS)
        common += self._dialects.of(path).headers(self._window(scope), elapsed)
        return [(name, value) for name, value in common if name not in chosen]

    def _window(self, scope: HTTPScope) -> Window:
        known = request_context.rate_window(scope)
        return known or self._limiter.peek(address_key(request_context.client_address(scope)))


def _observe(scope: HTTPScope, status: int, seconds: float) -> None:
    # Only names of our own become labels: a stranger must not be able to add some.
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = request_context.path_template(scope) or "unmatched"
    telemetry.observe_request(method, route, status, seconds)
