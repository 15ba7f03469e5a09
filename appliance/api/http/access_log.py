"""The access log: one line per request on stderr, in the format of the other logs.

It holds the template of the route instead of the path, and neither query, headers nor bodies, so
that no secret of a client gets into it. It writes its lines itself, those of 20 ms at once:
structlog would cost each request more than its routing, and a system call of its own, at which
other threads take the interpreter, more still.
"""

import asyncio
import sys
import time

import msgspec
from litestar.types import HTTPScope, WebSocketScope
from msgspec import Struct

from appliance.api.http import request_context
from appliance.api.http.route_table import WEBSOCKET, RouteClass
from appliance.config.settings import LogSettings

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FIRST_ERROR = 400
_LOGGED_LEVELS = frozenset({"debug", "info"})
_FLUSH_S = 0.02
_MAX_PENDING = 256


class AccessEntry(Struct, frozen=True):
    """`user` and `key` (the visible prefix of an API key) are null without credentials."""

    event: str
    level: str
    timestamp: str
    request_id: str
    client: str
    user: str | None
    key: str | None
    method: str
    route: str
    status: int
    duration_ms: float

    def encode_text(self) -> str:
        return (
            f"{self.timestamp} [info     ] request  {self.method} {self.route} {self.status} "
            f"duration_ms={self.duration_ms} client={self.client or '-'} user={self.user or '-'} "
            f"key={self.key or '-'} request_id={self.request_id}\n"
        )

    def encode_json(self) -> str:
        return msgspec.json.encode(self).decode() + "\n"


class AccessLog:
    """Writes a line per request if `log.access` is on and `log.level` is info or debug."""

    def __init__(self, settings: LogSettings) -> None:
        self._enabled = settings.access and settings.level in _LOGGED_LEVELS
        is_json = settings.format == "json"
        self._encode = AccessEntry.encode_json if is_json else AccessEntry.encode_text
        self._clock = _TextClock()
        self._pending: list[str] = []

    def record(
        self,
        scope: HTTPScope | WebSocketScope,
        method: str,
        route: str,
        status: int,
        seconds: float,
    ) -> None:
        """Log an answered request; health checks only if they fail."""
        if self._enabled and not _is_healthy(scope, status):
            principal = request_context.principal(scope)
            entry = AccessEntry(
                event="request",
                level="info",
                timestamp=self._clock.now(),
                request_id=request_context.request_id(scope),
                client=request_context.client_address(scope),
                user=principal and principal.user.username,
                key=principal and principal.key_prefix,
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 3),
            )
            self._pending.append(self._encode(entry))
            if len(self._pending) == 1:
                asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
            elif len(self._pending) == _MAX_PENDING:
                self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        lines, self._pending = self._pending, []
        sys.stderr.write("".join(lines))


class _TextClock:
    """The time in ISO 8601. A second's text is made once: it costs more than the rest of a line."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        at = time.time_ns() // 1_000_000
        second, millisecond = divmod(at, 1000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{millisecond:03}Z"


def known_method(scope: HTTPScope | WebSocketScope) -> str:
    """The method; "other" for one that a client made up."""
    if scope["type"] == "http":
        return scope["method"] if scope["method"] in _METHODS else "other"
    return WEBSOCKET


def known_route(scope: HTTPScope | WebSocketScope) -> str:
    """The path template of the matched route."""
    return request_context.path_template(scope) or UNMATCHED


def _is_healthy(scope: HTTPScope | WebSocketScope, status: int) -> bool:
    if status >= _FIRST_ERROR:
        return False
    policy = request_context.route_policy(scope)
    return policy is not None and policy.route.route_class is RouteClass.HEALTH
