"""Streams that nobody reads and sockets that send without end: others are served."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Generator
from typing import Any

import aiohttp
import pytest

from tests.support.bystander import Bystander, under_attack
from tests.support.server_process import ServerProcess

DEADLINE_S = 60.0
LISTENERS = 16
LONG_CHAT = {
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "max_tokens": 4000,
    "stream": True,
}
LOUD_RUN = {"argv": ["python", "-c", "while True: print('x' * 1000)"], "limits": {"wall_s": 3}}
UNREAD: dict[str, tuple[str, dict[str, Any]]] = {
    "chats": ("/v1/chat/completions", LONG_CHAT),
    "runs": ("/api/v1/sandbox/run/stream", LOUD_RUN),
    "tasks": ("/api/v1/execute/stream", {"prompt": "Write a haiku.", "persona_config": {}}),
}
SLEEPER = "import time\ntime.sleep(5)"
INIT = {"type": "init", "language": "python", "version": "*", "files": [{"content": SLEEPER}]}
# Piston's clients may send messages of their own, which are ignored.
IGNORED = json.dumps({"type": "ping"})


@contextlib.contextmanager
def unread_stream(server: ServerProcess, path: str, body: Any) -> Generator[None, None, None]:
    """An open request whose answer is never read, in the smallest of buffers."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.settimeout(DEADLINE_S)
        connection.connect((host, int(port)))
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            f"{content}".encode()
        )
        yield


@pytest.mark.parametrize("name", ["chats", "runs", pytest.param("tasks", marks=pytest.mark.slow)])
def test_streams_when_nobody_reads_them_then_others_are_served(
    name: str, attacked: ServerProcess, bystander_key: str
) -> None:
    path, body = UNREAD[name]
    with under_attack(attacked, bystander_key) as user, contextlib.ExitStack() as open_streams:
        for _ in range(LISTENERS):
            open_streams.enter_context(unread_stream(attacked, path, body))
        user.wait_for_answers(3)


def test_sockets_when_they_flood_with_small_messages_then_others_are_served(
    attacked: ServerProcess, bystander_key: str
) -> None:
    async def flood(session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {attacked.key}"}
        url = f"{attacked.url}/api/v2/connect"
        async with session.ws_connect(url, headers=headers) as connection:
            await connection.send_json(INIT)
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                for _ in range(20_000):
                    await connection.send_str(IGNORED)

    async def attack(user: Bystander) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(flood(session) for _ in range(4)))
        await asyncio.to_thread(user.wait_for_answers, 1)

    with under_attack(attacked, bystander_key) as user:
        asyncio.run(attack(user))
