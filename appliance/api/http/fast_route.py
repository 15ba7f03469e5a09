"""Routes and responses without the overhead that Litestar adds per request."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import Receive, Scope, Send

Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]

_encode = msgspec.json.Encoder().encode


class FastRoute(HTTPRouteHandler):
    """A route that passes itself to its guards; Litestar passes a copy made per request."""

    async def authorize_connection(self, connection: Connection) -> None:
        guards: list[Guard] = cast("Any", self).resolve_guards()  # the annotation is incomplete
        for guard in guards:
            await guard(connection, self)


class JsonResponse:
    """A JSON response as an ASGI application; Litestar's merges the settings of each layer."""

    def __init__(
        self, content: Any, headers: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        self._body = _encode(content)
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
            *encode_headers(headers or {}),
        ]
        self._status = status

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers, status = self._headers, self._status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers in the form of ASGI."""
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
