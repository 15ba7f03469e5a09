"""SIGTERM while completions run that outlast the grace period."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_upstream import STALL, FakeUpstream, as_events, fake_upstream
from tests.support.polling import until
from tests.support.server_process import ServerProcess, running_server

CHAT = "/v1/chat/completions"
MESSAGE = {"model": "openai/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
WORD = {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}
STOPPING = "the server is shutting down; retry shortly"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with fake_upstream() as fake:
        yield fake


def settings(upstream: FakeUpstream, grace_s: float) -> dict[str, str]:
    return {
        "MONKEY_CODER__PROVIDERS__OPENAI__BASE_URL": f"{upstream.url}/v1",
        "MONKEY_CODER__PROVIDERS__OPENAI__API_KEY": "key",
        "MONKEY_CODER__PROVIDERS__OPENAI__MODELS": "m",
        "MONKEY_CODER__SERVER__SHUTDOWN_GRACE_S": str(grace_s),
    }


async def stop(server: ServerProcess, upstream: FakeUpstream, running: int) -> int:
    """SIGTERM once so many requests have reached the upstream; returns the exit status."""
    await until(lambda: len(upstream.bodies(CHAT)) == running)
    return await asyncio.to_thread(server.stop)


def last_event(answer: httpx.Response) -> Any:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return json.loads(lines[-1].removeprefix("data: "))


async def test_completions_when_they_outlast_the_grace_then_each_ends_with_an_error_of_its_dialect(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.on(CHAT, as_events(WORD, end=STALL))
    with running_server(tmp_path / "data", None, **settings(upstream, 0.2)) as server:
        headers = {"Authorization": f"Bearer {await asyncio.to_thread(server.make_key)}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            asked = asyncio.gather(
                client.post(CHAT, json=MESSAGE | {"stream": True}),
                client.post("/v1/messages", json=MESSAGE | {"stream": True}),
                client.post(CHAT, json=MESSAGE),
            )
            assert await stop(server, upstream, 3) == 0
            chat, message, whole = await asked
    assert last_event(chat)["error"]["message"] == STOPPING
    assert last_event(message)["type"] == "error"
    assert last_event(message)["error"]["message"] == STOPPING
    assert whole.status_code == 503
    assert whole.headers["retry-after"]
    assert whole.json()["error"]["message"] == STOPPING
