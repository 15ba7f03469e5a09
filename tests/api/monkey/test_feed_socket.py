"""/api/v1/events as a WebSocket: credentials, resumption, revocation, readers that stop."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from appliance.api.http.auth import SESSION_COOKIE
from appliance.api.streaming import send_queue, websocket
from appliance.config.settings import ServerSettings
from appliance.server import HttpServer
from tests.api.application import PASSWORD, Api, add_user

DEADLINE_S = 30
PATH = "/api/v1/events"
CONNECTED = {"type": "connected", "after": 0, "id": 0}


@pytest.fixture
async def server(api: Api) -> AsyncIterator[HttpServer]:
    server = HttpServer(api.app, ServerSettings(port=0))
    await server.start()
    try:
        yield server
    finally:
        api.system.bus.close()
        await server.stop(5)


@asynccontextmanager
async def connected(
    server: HttpServer, query: str = "", **headers: str
) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    async with (
        asyncio.timeout(DEADLINE_S),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}{PATH}{query}", headers=headers) as socket,
    ):
        yield socket


async def closed_with(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code of the close frame, which comes next."""
    message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return message.data


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("how", ["header", "query", "cookie", "first message"])
async def test_socket_when_authenticated_then_it_has_the_users_feed(
    how: str, api: Api, server: HttpServer
) -> None:
    await add_user(api)
    tokens = await api.services.accounts.login.log_in("carol", PASSWORD, "127.0.0.1")
    token = tokens.access_token
    cookie = {"Cookie": f"{SESSION_COOKIE}={token}", "Origin": server.url}
    headers = {"header": bearer(token), "cookie": cookie}.get(how, {})
    query = f"?token={token}&after=0" if how == "query" else ""
    async with connected(server, query, **headers) as socket:
        if how == "first message":
            await socket.send_json({"type": "auth", "token": token})
        assert await socket.receive_json() == CONNECTED
        carol = await api.services.accounts.users.get_principal("carol")
        await api.system.submit(carol, client_task_id="mine")
        start: dict[str, Any] = await socket.receive_json()
    assert (start["type"], start["task_id"], start["id"]) == ("start", "mine", 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer mk-wrong"},
        {"Cookie": f"{SESSION_COOKIE}=x", "Origin": "http://elsewhere.test"},
        {"Cookie": f"{SESSION_COOKIE}=x"},
    ],
)
async def test_socket_when_the_handshake_has_wrong_credentials_then_refused(
    headers: dict[str, str], server: HttpServer
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(server, **headers):
            pass
    assert refused.value.status in (401, 403)


@pytest.mark.parametrize(
    "first", [{"type": "auth", "token": "mk-wrong"}, {"type": "auth"}, {"type": "x"}, [], None]
)
async def test_socket_when_the_first_message_is_wrong_or_missing_then_closed(
    first: Any, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if first is None:
        monkeypatch.setattr(websocket, "_FIRST_MESSAGE_S", 0.05)
    async with connected(server) as socket:
        if first is not None:
            await socket.send_json(first)
        error = await socket.receive_json()
        assert error["type"] == "error"
        code = error["error"]["code"]
        assert code in ("VALIDATION_ERROR" if first == [] else ("UNAUTHORIZED", "INVALID_TOKEN"))
        assert await closed_with(socket) == 1008


async def test_socket_when_resumed_then_each_event_comes_once(api: Api, server: HttpServer) -> None:
    task = await api.system.submit(api.system.alice)
    await api.system.final(task)
    seen: list[int] = []
    for count in (1, 2, 1, 4):
        query = f"?after={seen[-1] if seen else 0}"
        async with connected(server, query, **bearer(api.keys["alice"])) as socket:
            assert (await socket.receive_json())["type"] == "connected"
            seen += [(await socket.receive_json())["id"] for _ in range(count)]
    assert seen == list(range(1, 9))


async def test_socket_when_the_key_of_its_first_message_is_revoked_then_closed(
    api: Api, server: HttpServer
) -> None:
    accounts = api.services.accounts
    key, secret = await accounts.keys.create(api.system.alice, "test", [], None)
    async with connected(server) as socket:
        await socket.send_json({"type": "auth", "token": secret})
        await socket.receive_json()
        await accounts.keys.revoke_any(key.public_id)
        assert await closed_with(socket) == 1008
    assert not api.system.bus.user_followers(api.system.alice.user.id)


async def test_socket_when_the_server_shuts_down_then_closed_with_1001(
    api: Api, server: HttpServer
) -> None:
    async with connected(server, **bearer(api.keys["alice"])) as socket:
        await socket.receive_json()
        api.system.bus.close()
        assert await closed_with(socket) == 1001


async def test_socket_when_the_client_stops_reading_then_closed_with_1013_and_nothing_is_lost(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_queue, "SILENT_S", 0.1)
    await api.system.final(await api.system.submit(api.system.alice))
    assert await read_over_asgi(api, after=0, count=3) == ([1, 2, 3], 1013)
    assert await read_over_asgi(api, after=3, count=3) == ([4, 5, 6], 1013)


async def read_over_asgi(api: Api, after: int, count: int) -> tuple[list[int], int]:
    """The ids of up to `count` frames that a client takes before it stops; the close code."""
    ids: list[int] = []
    codes: list[int] = []
    connect = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return connect.pop() if connect else await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            codes.append(message["code"])
        elif message["type"] == "websocket.send":
            frame = json.loads(message["text"])
            if len(ids) == count:
                await asyncio.get_running_loop().create_future()
            if frame["type"] != "connected":
                ids.append(frame["id"])

    scope = {
        "type": "websocket", "http_version": "1.1", "path": PATH, "raw_path": PATH.encode(),
        "query_string": b"after=%d" % after, "root_path": "", "scheme": "ws", "subprotocols": [],
        "headers": [(b"host", b"a.test"), (b"x-api-key", api.keys["alice"].encode())],
        "client": ("127.0.0.1", 1234), "server": ("a.test", 80),
    }  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        await cast("Any", api.app)(scope, receive, send)
    return ids, codes[0]
