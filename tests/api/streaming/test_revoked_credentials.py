"""Streams and WebSockets end when the credentials of their caller are revoked."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from appliance.config.settings import ServerSettings
from appliance.server import HttpServer
from tests.api.application import PASSWORD, Api, add_user
from tests.support.task_system import until

DEADLINE_S = 30
TASK = {"prompt": "Write add(a, b)", "task_id": "watched"}


@pytest.fixture
async def server(api: Api) -> AsyncIterator[HttpServer]:
    server = HttpServer(api.app, ServerSettings(port=0))
    await server.start()
    await add_user(api)
    try:
        yield server
    finally:
        api.script.release()
        await server.stop(5)


@pytest.mark.parametrize("how", ["key revoked", "user disabled", "session ended"])
async def test_stream_when_its_credentials_are_revoked_then_it_ends(
    how: str, api: Api, server: HttpServer
) -> None:
    """F75"""
    accounts = api.services.accounts
    carol = await accounts.users.get_principal("carol")
    key, secret = await accounts.keys.create(carol, "test", [], None)
    tokens = await accounts.login.log_in("carol", PASSWORD, "127.0.0.1")
    credential = tokens.access_token if how == "session ended" else secret
    api.script.hold()
    kinds: list[str] = []
    async with asyncio.timeout(DEADLINE_S), _stream(server, credential) as lines:
        async for line in lines:
            if line.startswith("data: "):
                kinds.append(json.loads(line[6:])["type"])
                if kinds[-1] != "code":
                    continue
                if how == "key revoked":
                    await accounts.keys.revoke_any(key.public_id)
                elif how == "user disabled":
                    await accounts.users.set_disabled("carol", True)
                else:
                    await accounts.sessions.end(carol, tokens.refresh_token)
    assert kinds[-1] == "code"
    assert api.system.bus.followers(api.script.seen[0].task.id) == ()


async def test_stream_when_another_key_is_revoked_then_it_goes_on(
    api: Api, server: HttpServer
) -> None:
    accounts = api.services.accounts
    carol = await accounts.users.get_principal("carol")
    other, _ = await accounts.keys.create(carol, "other", [], None)
    _, secret = await accounts.keys.create(carol, "test", [], None)
    api.script.hold()
    async with asyncio.timeout(DEADLINE_S), _stream(server, secret) as lines:
        await anext(lines)
        await accounts.keys.revoke_any(other.public_id)
        await asyncio.sleep(2.5)  # a check has passed
        api.script.release()
        rest = [line async for line in lines]
    assert '"type":"complete"' in "".join(rest)


async def test_websocket_when_its_key_is_revoked_then_closed_with_the_reason(api: Api) -> None:
    """F75"""
    accounts = api.services.accounts
    alice = api.system.alice
    key, secret = await accounts.keys.create(alice, "test", [], None)
    sent: list[dict[str, Any]] = []
    connected = False

    async def receive() -> dict[str, Any]:
        nonlocal connected
        if not connected:
            connected = True
            return {"type": "websocket.connect"}
        return await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket", "http_version": "1.1",
        "path": "/api/v2/connect", "raw_path": b"/api/v2/connect",
        "query_string": b"", "root_path": "", "scheme": "ws", "subprotocols": [],
        "headers": [(b"host", b"server.test"), (b"authorization", f"Bearer {secret}".encode())],
        "client": ("127.0.0.1", 1234), "server": ("server.test", 80),
    }  # fmt: skip
    session = asyncio.create_task(cast("Any", api.app)(scope, receive, send))
    await until(lambda: bool(sent))
    assert sent[0]["type"] == "websocket.accept"
    await accounts.keys.revoke_any(key.public_id)
    async with asyncio.timeout(DEADLINE_S):
        await session
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 1008)
    assert sent[-1]["reason"] == "The credentials were revoked"


@asynccontextmanager
async def _stream(server: HttpServer, credential: str) -> AsyncGenerator[AsyncIterator[str]]:
    """The lines of a stream of TASK."""
    headers = {"Authorization": f"Bearer {credential}"}
    url = f"{server.url}/api/v1/execute/stream"
    async with (
        httpx.AsyncClient(headers=headers, timeout=DEADLINE_S) as client,
        client.stream("POST", url, json=TASK) as answer,
    ):
        yield answer.aiter_lines()
