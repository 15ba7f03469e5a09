"""Answers WebSocket handshakes at paths that are served over HTTP only.

With 426 (RFC 9110, section 15.5.22) clients fall back to HTTP at once; a 403 is tried again.
"""

import re
from collections.abc import Iterable
from typing import Any

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.http.dialect import Dialects, Problem
from appliance.api.http.route_table import ROUTES, WEBSOCKET, Route

_UPGRADE_REQUIRED = 426
_PARAMETER = re.compile(r"\\\{\w+\\\}")  # as re.escape writes {name}


class HandshakeFilter:
    """Refuses handshakes at HTTP routes; everything else goes to `app`."""

    def __init__(self, app: ASGIApp, dialects: Dialects) -> None:
        self._app = app
        self._dialects = dialects
        self._websocket = _path_pattern(row for row in ROUTES if row.method == WEBSOCKET)
        self._http = _path_pattern(row for row in ROUTES if row.method != WEBSOCKET)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or not self._is_http_only(scope["path"]):
            return await self._app(scope, receive, send)
        await receive()
        problem = Problem(
            _UPGRADE_REQUIRED,
            "UPGRADE_REQUIRED",
            "There is no WebSocket at this path; send an HTTP request.",
            headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
        )

        async def send_denial(message: Any) -> None:
            # ASGI's extension "websocket.http.response" repeats the events of HTTP.
            denial: Any = {**message, "type": f"websocket.{message['type']}"}
            await send(denial)

        http_scope: Any = {**scope, "type": "http", "method": "GET"}
        request = Request[Any, Any, Any](http_scope, receive, send_denial)
        response = self._dialects.for_path(scope["path"]).render_error(request, problem)
        asgi: Any = response.to_asgi_response(None, request)
        return await asgi(http_scope, receive, send_denial)

    def _is_http_only(self, path: str) -> bool:
        plain = path.rstrip("/")
        return bool(self._http.fullmatch(plain)) and not self._websocket.fullmatch(plain)


def _path_pattern(rows: Iterable[Route]) -> re.Pattern[str]:
    paths = sorted({row.path.rstrip("/") for row in rows})
    return re.compile("|".join(_PARAMETER.sub("[^/]+", re.escape(path)) for path in paths))
