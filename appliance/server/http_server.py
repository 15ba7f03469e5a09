"""Granian inside this process's event loop.

Embedded rather than run by Granian's own supervisor: one process of 48 MB instead of two
of 84 MB, the same start-up time, and signals reach the scheduler directly. A crashed
process is restarted by the service manager.

Framing of requests is the parser's (hyper). It answers 400 to two different Content-Lengths, a
transfer encoding other than chunked, one in HTTP/1.0, a folded header, a space before the colon and
a bare CR; a Transfer-Encoding overrides a Content-Length, and the connection is closed afterwards.
Lines of the chunked encoding must end with CR LF. A line of the header may end with a bare LF, as
RFC 9112, section 2.2, allows a recipient to accept: neither hyper nor Granian has an option against
it, and an ASGI application sees only the parsed header. Request smuggling by it takes a proxy in
front that reads an LF as a part of a header's value and passes it on: RFC 9110, section 5.5,
forbids that. One that refuses such a value, or ends the line there and writes CR LF, protects.
"""

import asyncio
import socket
from contextlib import suppress

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar.types import ASGIApp

from appliance.config.settings import ServerSettings
from appliance.errors import SetupError
from appliance.server.connection_guard import ConnectionGuard
from appliance.server.connection_requests import ConnectionRequests
from appliance.server.open_sockets import OpenSockets, raise_open_files_limit

log = structlog.get_logger()

_BACKLOG = 4096
_MAX_HEADER_BYTES = 128 * 1024
_START_TIMEOUT_S = 10.0
# Granian accepts more than server.connections, so that the guard finds those over it.
_ACCEPTED_FACTOR = 2
_MAX_UNSENT_BYTES = 64 * 1024
_OTHER_FILES = 4096  # files, pipes and connections to providers


class HttpServer:
    """Serves one ASGI application at one address."""

    def __init__(self, api: ASGIApp, settings: ServerSettings) -> None:
        self.host = settings.host
        self.port = settings.port or free_port(settings.host)
        capacity = _accepted_connections(settings.connections)
        requests = ConnectionRequests(api)
        self._guard = ConnectionGuard(requests, settings, self.port, capacity)
        self._server = Server(
            requests,
            address=self.host,
            port=self.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(
                # Hyper starts it when a connection becomes idle, so it is the idle limit.
                header_read_timeout=round(settings.idle_timeout_s * 1000),
                max_buffer_size=_MAX_HEADER_BYTES,
            ),
            backlog=_BACKLOG,
            backpressure=capacity,
            log_enabled=False,
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; returns when connections are accepted. Raises SetupError."""
        check_free(self.host, self.port)
        self._serving = asyncio.ensure_future(self._server.serve())
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._until_accepting(self._serving)
        except TimeoutError:
            raise SetupError(f"the HTTP server did not start at {self.url}") from None
        OpenSockets().limit_unsent(self.port, _MAX_UNSENT_BYTES)
        self._guard.start()

    async def _until_accepting(self, serving: "asyncio.Task[None]") -> None:
        while True:
            if serving.done():
                serving.result()
                raise SetupError(f"the HTTP server ended at once at {self.url}")
            with suppress(OSError):
                host = self.url.removeprefix("http://").rsplit(":", 1)[0].strip("[]")
                _, writer = await asyncio.open_connection(host, self.port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.005)

    async def stop(self, grace_s: float) -> bool:
        """Stop accepting and wait for open requests; False if some outlast `grace_s`."""
        if self._serving is None:
            return True
        self._server.stop()
        done, _ = await asyncio.wait([self._serving], timeout=grace_s)
        await self._guard.close()
        if not done:
            log.warning("connections did not end in time", seconds=grace_s)
        return bool(done)


def free_port(host: str) -> int:
    """A port that is free at this address at the moment."""
    with _listening(host, 0) as probe:
        return int(probe.getsockname()[1])


def check_free(host: str, port: int) -> None:
    """Raise SetupError if the address is in use; Granian itself would share the port."""
    _listening(host, port).close()


def wanted_open_files(connections: int) -> int:
    """The limit of open files with which the server can have so many connections."""
    return _ACCEPTED_FACTOR * connections + _OTHER_FILES


def _accepted_connections(connections: int) -> int:
    """How many connections Granian may accept; other files keep a part of the descriptors."""
    wanted = _ACCEPTED_FACTOR * connections
    files = raise_open_files_limit(wanted_open_files(connections))
    accepted = min(wanted, max(files // 2, files - _OTHER_FILES))
    if accepted < wanted:
        log.info("fewer connections than server.connections allows", open_files=files)
    return accepted


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SetupError(
            f"cannot listen at {host} port {port}: {reason}; choose another with --host and --port"
        ) from None
