"""The outermost ASGI layer: it also handles paths that match no route."""

import re
import time

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from appliance import telemetry
from appliance.api.http import request_context
from appliance.api.http.body_drain import DrainableBody
from appliance.api.http.dialect import Dialects, Headers
from appliance.api.http.proxies import TrustedProxies
from appliance.api.http.rate_limit import RateLimiter, RateStatus, address_key

_SLASHES = re.compile("/{2,}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that disconnected first
_SECURITY_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"1; mode=block"),
    (b"referrer-policy", b"no-referrer"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class RequestMiddleware:
    """Assigns the request id, normalizes the path, adds common headers, records metrics."""

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
        status = _CLIENT_CLOSED_REQUEST
        body = DrainableBody(scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = list(message.get("headers", []))
                elapsed = time.perf_counter() - started
                message["headers"] = own + self._common_headers(scope, path, own, elapsed)
            elif not message.get("more_body", False):
                await body.drain()
            await send(message)

        request_context.assign_request_id(scope)
        bound = structlog.contextvars.bind_contextvars(request_id=request_context.request_id(scope))
        try:
            await self._app(scope, body.receive, send_with_headers)
        finally:
            structlog.contextvars.reset_contextvars(**bound)
            _record_metrics(scope, status, time.perf_counter() - started)

    def _common_headers(self, scope: HTTPScope, path: str, own: Headers, elapsed: float) -> Headers:
        """The common headers, without those that the handler has set."""
        own_names = {name.lower() for name, _ in own}
        common = [(b"x-request-id", request_context.request_id(scope).encode()), *_SECURITY_HEADERS]
        if scope["scheme"] == "https":
            common.append(_HSTS)
        common += self._dialects.for_path(path).extra_headers(self._rate_status(scope), elapsed)
        return [(name, value) for name, value in common if name not in own_names]

    def _rate_status(self, scope: HTTPScope) -> RateStatus:
        status = request_context.rate_status(scope)
        if status is None:
            status = self._limiter.peek(address_key(request_context.client_address(scope)))
        return status


def _record_metrics(scope: HTTPScope, status: int, seconds: float) -> None:
    # A client must not be able to create new label values.
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = request_context.path_template(scope) or "unmatched"
    telemetry.observe_request(method, route, status, seconds)
