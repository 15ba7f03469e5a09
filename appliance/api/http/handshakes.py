"""Answers WebSocket handshakes that can't succeed as HTTP requests are answered.

Litestar closes a refused handshake, which the client sees as a 403 without a reason. Here it gets
the status and the error of the dialect: 404 at an unknown path, 426 (RFC 9110, section 15.5.22)
at one that is served over HTTP only, so that clients fall back to HTTP at once, and the error of
a guard, such as 401.
"""

import re
from collections.abc import Awaitable, Iterable
from typing import Any

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.http import request_context
from appliance.api.http.dialect import Dialects, Problem
from appliance.api.http.errors import to_problem
from appliance.api.http.route_table import ROUTES, WEBSOCKET, Route

_GUARD_ERROR = "appliance_guard_error"
_PARAMETER = re.compile(r"\\\{\w+\\\}")  # as re.escape writes {name}
_BODY_HEADERS = (b"content-length", b"transfer-encoding")

_HAS_BODY = Problem(
    400,
    "VALIDATION_ERROR",
    "A WebSocket handshake is a GET request without a body; to send a body, leave out the "
    "header Upgrade.",
)
_UNKNOWN = Problem(404, "RESOURCE_NOT_FOUND", "No resource at this path.")
_HTTP_ONLY = Problem(
    426,
    "UPGRADE_REQUIRED",
    "There is no WebSocket at this path; send an HTTP request.",
    headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
)


class HandshakeFilter:
    """Refuses handshakes that can't succeed; everything else goes to `app`."""

    def __init__(self, app: ASGIApp, dialects: Dialects) -> None:
        self._app = app
        self._dialects = dialects
        self._websocket = _path_pattern(row for row in ROUTES if row.method == WEBSOCKET)
        self._http = _path_pattern(row for row in ROUTES if row.method != WEBSOCKET)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "websocket":
            return self._app(scope, receive, send)
        return self._serve_handshake(scope, receive, send)

    async def _serve_handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._find_problem(scope)
        if problem is not None:
            await receive()
            return await self._deny(scope, receive, send, problem)
        accepted = False

        async def send_or_deny(message: Any) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            error = scope["state"].get(_GUARD_ERROR)
            if accepted or error is None:
                await send(message)
            else:
                problem = to_problem(_as_request(scope, receive, send), error)
                await self._deny(scope, receive, send, problem)

        return await self._app(scope, receive, send_or_deny)

    def _find_problem(self, scope: Scope) -> Problem | None:
        # The server does not tell the method: a body shows that it is not a GET.
        if any(request_context.header(scope, name) is not None for name in _BODY_HEADERS):
            return _HAS_BODY
        plain = scope["path"].rstrip("/")
        if self._websocket.fullmatch(plain):
            return None
        return _HTTP_ONLY if self._http.fullmatch(plain) else _UNKNOWN

    async def _deny(self, scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
        async def send_denial(message: Any) -> None:
            # ASGI's extension "websocket.http.response" repeats the events of HTTP.
            denial: Any = {**message, "type": f"websocket.{message['type']}"}
            await send(denial)

        request = _as_request(scope, receive, send_denial)
        response: Any = self._dialects.for_path(scope["path"]).render_error(request, problem)
        await response.to_asgi_response(None, request)(request.scope, receive, send_denial)


async def keep_guard_error(error: Exception, scope: Scope) -> None:
    """Hook of the application: keep the error of a WebSocket route for its HandshakeFilter."""
    if scope["type"] == "websocket":
        scope["state"][_GUARD_ERROR] = error


def _as_request(scope: Scope, receive: Receive, send: Send) -> Request[Any, Any, Any]:
    http_scope: Any = {**scope, "type": "http", "method": "GET"}
    return Request(http_scope, receive, send)


def _path_pattern(rows: Iterable[Route]) -> re.Pattern[str]:
    paths = sorted({row.path.rstrip("/") for row in rows})
    return re.compile("|".join(_PARAMETER.sub("[^/]+", re.escape(path)) for path in paths))
