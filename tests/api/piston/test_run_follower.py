"""Following a program over a WebSocket when its end and a signal of the client coincide."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from appliance.api.piston.connect_route import follow_run
from appliance.api.streaming.websocket import JsonSocket, Message

SIGNAL = {"type": "websocket.receive", "text": json.dumps({"type": "signal", "signal": "SIGINT"})}


class Socket:
    """A connection on which a signal arrives while the message `during` is sent."""

    def __init__(self, during: str) -> None:
        self.sent: list[Any] = []
        self._during = during
        self._signals: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self._signals.get()

    async def send_text(self, text: str) -> None:
        message = json.loads(text)
        self.sent.append(message)
        if message["type"] == self._during:
            self._signals.put_nowait(SIGNAL)
            for _ in range(10):
                await asyncio.sleep(0)


async def messages(during: str) -> AsyncGenerator[Message, None]:
    yield {"type": "stage", "stage": "run"}
    if during == "stage":
        await asyncio.Event().wait()  # the signal ends the run
    yield {"type": "exit", "stage": "run", "code": 0, "signal": None}


@pytest.mark.parametrize(("during", "signal"), [("exit", None), ("stage", "SIGKILL")])
async def test_exit_when_a_signal_comes_at_the_end_then_sent_once(
    during: str, signal: str | None
) -> None:
    socket: Any = Socket(during)
    client = JsonSocket(socket, 1000)
    sender = asyncio.create_task(client.queue.run())
    await follow_run(client, messages(during))
    await client.queue.flush()
    sender.cancel()

    assert [each["type"] for each in socket.sent] == ["stage", "exit"]
    assert socket.sent[1]["signal"] == signal
