"""The outermost ASGI layer: it also handles paths that match no route."""

import asyncio
import re
import time
from typing import Any

import structlog
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send, WebSocketScope

from appliance import telemetry
from appliance.api.http import request_context
from appliance.api.http.access_log import AccessLog, known_method, known_route
from appliance.api.http.admission import Admission
from appliance.api.http.body_deadline import BodyDeadlines
from appliance.api.http.body_drain import DrainableBody
from appliance.api.http.dialect import Dialects, Headers
from appliance.api.http.errors import ErrorResponse
from appliance.api.http.open_streams import OpenStream, OpenStreams
from appliance.api.http.proxies import TrustedProxies
from appliance.api.http.rate_limit import RateLimiter, RateStatus, address_key

_SLASHES = re.compile("/{2,}")
_SWITCHING_PROTOCOLS = 101
_HANDSHAKE_REFUSED = 403
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
_TRY_AGAIN_LATER = 1013
_REVOKED = "The credentials were revoked"
_MAX_PIECE_BYTES = 32 * 1024
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
    """Assigns the request id, normalizes the path, adds common headers; metrics, access log.

    It also ends streams whose caller's credentials were revoked.
    """

    def __init__(
        self,
        app: ASGIApp,
        dialects: Dialects,
        *,
        limiter: RateLimiter,
        proxies: TrustedProxies,
        admission: Admission,
        deadlines: BodyDeadlines,
        streams: OpenStreams,
        access_log: AccessLog,
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._admission = admission
        self._deadlines = deadlines
        self._dialects = dialects
        self._limiter = limiter
        self._streams = streams
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; Litestar's router has the lifespan.

        Log entries have the request id. It need not be unbound: a request has a task, and with
        it a context, of its own.
        """
        self._proxies.apply(scope)
        request_id = request_context.assign_request_id(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if scope["type"] == "http":
            await self._serve_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)

    async def _serve_http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        scope["path"] = path = _SLASHES.sub("/", scope["path"])
        status = _CLIENT_CLOSED_REQUEST
        body = DrainableBody(scope, receive, self._deadlines)
        # The response may be sent by another task, which the framework starts for it.
        task = asyncio.current_task()
        stream: OpenStream | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                own = list(message.get("headers", []))
                elapsed = time.perf_counter() - started
                message["headers"] = own + self._common_headers(scope, path, own, elapsed)
            elif not message.get("more_body", False):
                await body.drain()
            elif stream is None:
                stream = self._open_stream(scope, task)
            if len(message.get("body", b"")) <= _MAX_PIECE_BYTES:
                await send(message)
            else:
                await _send_in_pieces(message, send)

        refusal = self._admission.enter(scope)
        app = ErrorResponse(self._dialects, refusal) if refusal else self._app
        try:
            if refusal is not None:
                await self._admission.pace_refusal(scope)
            await app(scope, body.receive, send_with_headers)
        except asyncio.CancelledError:
            if stream is None or not stream.caused_cancellation():
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._finish(scope, stream, status, started)

    async def _serve_websocket(self, scope: WebSocketScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        scope["path"] = _SLASHES.sub("/", scope["path"])
        status = _HANDSHAKE_REFUSED
        task = asyncio.current_task()
        stream: OpenStream | None = None

        async def send_watched(message: Message) -> None:
            nonlocal status, stream
            if message["type"] == "websocket.accept":
                status = _SWITCHING_PROTOCOLS
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
                own, elapsed = list(message["headers"]), time.perf_counter() - started
                headers = self._common_headers(scope, scope["path"], own, elapsed)
                message["headers"] = own + headers
            # The caller may be known by the first message only.
            if stream is None and status == _SWITCHING_PROTOCOLS:
                stream = self._open_stream(scope, task)
            await send(message)

        refusal = self._admission.enter(scope)
        try:
            if refusal is None:
                await self._app(scope, receive, send_watched)
            else:
                await self._admission.pace_refusal(scope)
                await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": ""})
        except asyncio.CancelledError:
            if stream is None or not stream.caused_cancellation():
                raise
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": _REVOKED})
        finally:
            self._finish(scope, stream, status, started)

    def _open_stream(self, scope: Scope, task: "asyncio.Task[Any] | None") -> OpenStream | None:
        principal = request_context.principal(scope)
        return self._streams.open(principal, task) if principal and task else None

    def _finish(
        self,
        scope: HTTPScope | WebSocketScope,
        stream: OpenStream | None,
        status: int,
        started: float,
    ) -> None:
        self._admission.leave(scope)
        if stream is not None:
            self._streams.close(stream)
        seconds = time.perf_counter() - started
        method, route = known_method(scope), known_route(scope)
        if scope["type"] == "http":
            telemetry.observe_request(method, route, status, seconds)
        self._access_log.record(scope, method, route, status, seconds)

    def _common_headers(
        self, scope: HTTPScope | WebSocketScope, path: str, own: Headers, elapsed: float
    ) -> Headers:
        """The common headers, without those that the handler has set."""
        own_names = {name.lower() for name, _ in own}
        common = [(b"x-request-id", request_context.request_id(scope).encode()), *_SECURITY_HEADERS]
        if scope["scheme"] == "https":
            common.append(_HSTS)
        common += self._dialects.for_path(path).extra_headers(self._rate_status(scope), elapsed)
        return [(name, value) for name, value in common if name not in own_names]

    def _rate_status(self, scope: HTTPScope | WebSocketScope) -> RateStatus:
        status = request_context.rate_status(scope)
        if status is None:
            status = self._limiter.peek(address_key(request_context.client_address(scope)))
        return status


async def _send_in_pieces(message: Any, send: Send) -> None:
    """Send a large body no faster than the client reads: the server would copy the whole."""
    body, more = memoryview(message["body"]), message.get("more_body", False)
    for start in range(0, len(body), _MAX_PIECE_BYTES):
        end = start + _MAX_PIECE_BYTES
        piece = bytes(body[start:end])
        more_body = more or end < len(body)
        await send({"type": "http.response.body", "body": piece, "more_body": more_body})
