"""/api/v1/events: one stream over all tasks of the caller."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from appliance.config.settings import ServerSettings
from appliance.server import HttpServer
from tests.api.application import Api

DEADLINE_S = 30
PATH = "/api/v1/events"
TYPES = ["start", "progress", "progress", "progress", "progress", "progress", "code", "complete"]


@pytest.fixture
async def server(api: Api) -> AsyncIterator[HttpServer]:
    server = HttpServer(api.app, ServerSettings(port=0))
    await server.start()
    try:
        yield server
    finally:
        api.system.bus.close()
        await server.stop(5)


async def run_task(api: Api, name: str) -> None:
    task = await api.system.submit(api.system.alice, client_task_id=name)
    await api.system.final(task)


@asynccontextmanager
async def feed(
    server: HttpServer, key: str, path: str = PATH, **headers: str
) -> AsyncGenerator[AsyncIterator[tuple[int, dict[str, Any]]]]:
    """The frames of a feed, each with its id."""

    async def frames(response: httpx.Response) -> AsyncGenerator[tuple[int, dict[str, Any]]]:
        number = 0
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                yield number, json.loads(line[6:])

    async with (
        asyncio.timeout(DEADLINE_S),
        httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client,
        client.stream("GET", path, headers={"Authorization": f"Bearer {key}", **headers}) as answer,
        aclosing(frames(answer)) as found,
    ):
        assert answer.status_code == 200
        yield found


async def test_feed_when_two_tasks_run_then_their_events_come_in_one_order(
    api: Api, server: HttpServer
) -> None:
    async with feed(server, api.keys["alice"]) as frames, feed(server, api.keys["bob"]) as others:
        assert await anext(frames) == (0, {"type": "connected", "after": 0})
        assert await anext(others) == (0, {"type": "connected", "after": 0})
        await run_task(api, "first")
        await run_task(api, "second")
        seen = [await anext(frames) for _ in range(16)]
        foreign = await api.system.submit(api.system.bob)
        assert (await anext(others))[1]["task_id"] == foreign.public_id
    assert [number for number, _ in seen] == list(range(1, 17))
    assert [frame["type"] for _, frame in seen] == TYPES * 2
    assert [frame["task_id"] for _, frame in seen] == ["first"] * 8 + ["second"] * 8
    assert seen[7][1] == {"type": "complete", "task_id": "first"}


async def test_feed_when_resumed_by_header_or_query_then_it_goes_on_after_that_event(
    api: Api, server: HttpServer
) -> None:
    await run_task(api, "first")
    key = api.keys["alice"]
    async with feed(server, key, **{"Last-Event-ID": "6"}) as frames:
        assert [(await anext(frames))[0] for _ in range(3)] == [6, 7, 8]
    async with feed(server, key, f"{PATH}?after=7") as frames:
        assert [(await anext(frames))[0] for _ in range(2)] == [7, 8]
    async with feed(server, key) as frames:
        assert (await anext(frames))[0] == 8
        await api.services.tasks.delete(api.system.alice, "first")
        assert await anext(frames) == (9, {"type": "task_deleted", "task_id": "first"})


async def test_feed_when_its_key_is_revoked_then_it_ends(api: Api, server: HttpServer) -> None:
    accounts = api.services.accounts
    key, secret = await accounts.keys.create(api.system.alice, "test", [], None)
    async with feed(server, secret) as frames:
        await anext(frames)
        await accounts.keys.revoke_any(key.public_id)
        assert [frame async for frame in frames] == []
    assert not api.system.bus.user_followers(api.system.alice.user.id)
