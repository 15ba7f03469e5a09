"""The guard over a real server: which connections it ends, and which it lets be."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.api.http import request_context
from appliance.config.settings import ServerSettings
from appliance.server import HttpServer
from appliance.server.open_sockets import descriptor_slots
from tests.support.polling import until
from tests.support.raw_client import RawClient

REQUEST = b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n"
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: server.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Application:
    """Answers at once, but for /held, which waits for `release`, and WebSockets."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.peers: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{kind}"
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.peers.append(scope["client"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        scope["client"] = ("203.0.113.1", 0)  # as behind a trusted proxy
        if scope["path"] == "/refused":
            request_context.mark_refused(scope)
        if scope["path"] in ("/held", "/refused"):
            await self.release.wait()
        body = b"x" * 8_000_000 if scope["path"] == "/large" else b"ok"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


Connect = Callable[..., RawClient]


@asynccontextmanager
async def serving(application: Application, **settings: Any) -> AsyncGenerator[Connect]:
    server = HttpServer(cast("Any", application), ServerSettings(port=0, **settings))
    await server.start()
    clients: list[RawClient] = []

    def connect(source: str = "127.0.0.2") -> RawClient:
        clients.append(RawClient(server.port, source))
        return clients[-1]

    try:
        yield connect
    finally:
        application.release.set()
        for client in clients:
            client.close()
        assert await server.stop(10)


async def test_header_when_it_trickles_in_then_the_connection_ends_and_idle_ones_stay() -> None:
    async with serving(Application(), header_timeout_s=0.2) as connect:
        silent, kept, slow = connect(), connect(), connect()
        kept.send(REQUEST)
        assert (await kept.answer()).endswith(b"ok")
        await until(lambda: not slow.send(b"G") or not slow.is_open())
        kept.send(REQUEST)
        silent.send(REQUEST)
        assert (await kept.answer()).endswith(b"ok")
        assert (await silent.answer()).endswith(b"ok")


async def test_header_when_the_next_one_trickles_in_after_an_answer_then_it_ends() -> None:
    async with serving(Application(), header_timeout_s=0.2) as connect:
        slow = connect()
        slow.send(REQUEST)
        assert (await slow.answer()).endswith(b"ok")
        await until(lambda: not slow.send(b"G") or not slow.is_open())


@pytest.mark.parametrize("first", [b"", REQUEST])
async def test_connection_when_it_is_idle_then_it_is_closed_at_the_idle_limit(first: bytes) -> None:
    """F19, F64"""
    assert ServerSettings().idle_timeout_s >= 75
    async with serving(Application(), idle_timeout_s=0.3) as connect:
        idle = connect()
        idle.send(first)
        if first:
            assert (await idle.answer()).endswith(b"ok")
        await until(lambda: not idle.is_open())


async def test_request_when_it_takes_longer_than_the_header_may_then_it_is_answered() -> None:
    application = Application()
    async with serving(application, header_timeout_s=0.1, idle_timeout_s=0.1) as connect:
        waiting, slow = connect(), connect()
        waiting.send(REQUEST.replace(b"/ ", b"/held "))
        await until(lambda: not slow.send(b"G") or not slow.is_open())
        application.release.set()
        assert (await waiting.answer()).endswith(b"ok")


async def test_answer_when_the_client_does_not_read_then_the_connection_ends() -> None:
    async with serving(Application(), write_timeout_s=0.3) as connect:
        unread = connect()
        unread.send(REQUEST.replace(b"/ ", b"/large "))
        await until(lambda: not unread.send(b"G"))  # reset, although nothing was read


async def test_websocket_when_an_unfinished_message_is_too_large_then_it_ends() -> None:
    async with serving(Application(), websocket_message_bytes=1024) as connect:
        hostile, idle = connect(), connect()
        for each in (hostile, idle):
            each.send(WEBSOCKET)
            assert (await each.answer()).startswith(b"HTTP/1.1 101")
        hostile.send(b"\x81\xff" + (10**7).to_bytes(8, "big") + b"mask")
        await until(lambda: not hostile.send(b"x" * 1000))
        assert idle.is_open()


async def test_address_when_it_has_too_many_connections_then_the_idle_ones_end() -> None:
    application = Application()
    async with serving(application, connections=16, connections_per_address=4) as connect:
        other = connect("127.0.0.3")
        held = connect()
        held.send(REQUEST.replace(b"/ ", b"/held "))
        await until(lambda: application.peers)
        idle = [connect() for _ in range(12)]
        await until(lambda: sum(each.is_open() for each in idle) == 3)
        assert all(each.is_open() for each in (held, other, *idle[-3:]))
        application.release.set()
        assert (await held.answer()).endswith(b"ok")


async def test_address_when_its_requests_wait_for_their_refusal_then_connections_end() -> None:
    application = Application()
    async with serving(application, connections=16, connections_per_address=4) as connect:
        held, refused = connect(), [connect() for _ in range(8)]
        held.send(REQUEST.replace(b"/ ", b"/held "))
        for each in refused:
            each.send(REQUEST.replace(b"/ ", b"/refused "))
        await until(lambda: len(application.peers) == 9)
        await until(lambda: sum(each.is_open() for each in refused) == 3)
        application.release.set()
        assert (await held.answer()).endswith(b"ok")


async def test_connection_when_it_is_accepted_then_the_kernel_holds_little_unsent() -> None:
    async with serving(Application()) as connect:
        client = connect()
        client.send(REQUEST)
        assert (await client.answer()).endswith(b"ok")
        found = [_unsent_limit(number) for number in range(descriptor_slots())]
        assert 64 * 1024 in found


def _unsent_limit(descriptor: int) -> int | None:
    """TCP_NOTSENT_LOWAT of a connection; None for other files."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as held:
        held.getpeername()
        return held.getsockopt(socket.IPPROTO_TCP, 25)
    return None


async def test_address_when_it_is_a_trusted_proxy_then_its_connections_stay() -> None:
    trusted = {"trusted_proxies": ("127.0.0.2",), "connections_per_address": 4}
    async with serving(Application(), connections=16, **trusted) as connect:
        proxy = [connect() for _ in range(10)]
        hostile = [connect("127.0.0.3") for _ in range(6)]
        await until(lambda: sum(each.is_open() for each in hostile) <= 4)
        assert all(each.is_open() for each in proxy)


async def test_connections_when_they_are_too_many_in_total_then_new_ones_are_served() -> None:
    async with serving(Application(), connections=16) as connect:
        flood = [connect(f"127.0.1.{number}") for number in range(60)]
        last = connect("127.0.0.3")
        last.send(REQUEST)
        assert (await last.answer()).endswith(b"ok")
        await until(lambda: sum(each.is_open() for each in flood) < 16)


def locked_inodes() -> set[str]:
    """MAJOR:MINOR:INODE of the files on which this process has locks."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {words[5] for words in lines if words[4] == str(os.getpid())}


async def test_server_when_it_starts_then_the_locks_of_this_process_stay(tmp_path: Path) -> None:
    """To close any descriptor of a file drops the locks on it: SQLite's, on the database."""
    with (tmp_path / "locked").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        async with serving(Application()):
            held = {each.rpartition(":")[2] for each in locked_inodes()}
        assert str(os.fstat(file.fileno()).st_ino) in held
