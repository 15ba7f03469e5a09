"""Over a real socket: events arrive while the task runs; disconnects release resources."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from appliance.config.settings import ServerSettings
from appliance.server import HttpServer
from tests.api.application import Api
from tests.support.polling import until

TASK = {"prompt": "Write add(a, b)", "task_id": "live"}


@pytest.fixture
async def live(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client of the API on a free port."""
    server = HttpServer(api.app, ServerSettings(port=0))
    await server.start()
    headers = {"Authorization": f"Bearer {api.keys['alice']}"}
    try:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            yield client
    finally:
        api.script.release()
        await server.stop(5)


def followers(api: Api) -> int:
    """The number of followers of the tasks that have started."""
    return sum(len(api.system.bus.followers(seen.task.id)) for seen in api.script.seen)


async def test_stream_when_the_task_runs_then_events_arrive_at_once(
    api: Api, live: httpx.AsyncClient
) -> None:
    api.script.hold()
    kinds: list[str] = []
    async with live.stream("POST", "/api/v1/execute/stream", json=TASK) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                kinds.append(json.loads(line[6:])["type"])
                if kinds[-1] == "code":
                    running = (await live.get("/api/v1/tasks/live")).json()
                    assert running["status"] == "in_progress"
                    api.script.release()
    assert kinds[0] == "start"
    assert kinds[-1] == "complete"


async def test_stream_when_the_client_goes_away_then_the_task_goes_on_alone(
    api: Api, live: httpx.AsyncClient
) -> None:
    api.script.hold()
    async with live.stream("POST", "/api/v1/execute/stream", json=TASK) as answer:
        async for line in answer.aiter_lines():
            if '"code"' in line:
                break
    await until(lambda: followers(api) == 0)
    api.script.release()
    ended = await api.services.tasks.wait(api.system.alice, "live", 20)
    assert ended.status == "completed"


async def test_execute_when_the_client_goes_away_then_the_task_goes_on(
    api: Api, live: httpx.AsyncClient
) -> None:
    api.script.hold()
    with pytest.raises(httpx.ReadTimeout):
        await live.post("/api/v1/execute", json=TASK, timeout=httpx.Timeout(20, read=0.3))
    assert (await live.get("/api/v1/tasks/live")).json()["status"] in ("pending", "in_progress")
    api.script.release()
    again = await live.post("/api/v1/execute", json=TASK)
    assert again.json()["status"] == "completed"
    assert len(api.script.seen) == 1


async def test_stream_when_the_server_shuts_down_then_it_ends(
    api: Api, live: httpx.AsyncClient
) -> None:
    api.script.hold()

    async def read() -> str:
        return (await live.post("/api/v1/execute/stream", json=TASK)).text

    reading = asyncio.create_task(read())
    await until(lambda: followers(api) == 1)
    api.system.bus.close()
    async with asyncio.timeout(20):
        assert '"type":"start"' in await reading


async def test_body_when_chunked_and_too_large_then_413(live: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1024 * 1024

    try:
        answer = await live.post("/api/v1/execute", content=pieces())
    except httpx.WriteError:
        pytest.fail("the answer must reach a client that is still sending")
    assert answer.status_code == 413
    assert (await live.get("/health")).status_code == 200


async def test_body_when_announced_too_large_then_413_reaches_who_sends_it(api: Api) -> None:
    head = b"POST /api/v1/execute HTTP/1.1\r\nHost: server\r\nContent-Length: 33554432\r\n%s\r\n"
    key = b"Authorization: Bearer " + api.keys["alice"].encode() + b"\r\n"
    for sent, wanted in ((head % key, b"413"), (head % b"", b"401")):
        server = HttpServer(api.app, ServerSettings(port=0))
        await server.start()
        port = int(server.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            async with asyncio.timeout(30):
                for _ in range(32):
                    writer.write(b"x" * 1024 * 1024)
                    await writer.drain()
                assert wanted in await reader.readline()
        finally:
            writer.close()
            await server.stop(5)


async def test_body_when_it_never_comes_then_the_answer_does(live: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection(live.base_url.host, live.base_url.port)
    try:
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: server\r\nContent-Length: 10\r\n\r\n")
        async with asyncio.timeout(20):
            assert b"404" in await reader.readline()
    finally:
        writer.close()
