"""A far provider on loopback that says, byte for byte, what a test wrote for it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from appliance import processes
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Message,
    MessageRole,
    TextDelta,
)
from appliance.spi.provider import Provider
from appliance.spi.registry import PluginContext, Registry
from tests.support.llama_box import ListedModels

KEY = "sk-hush-0123456789abcdef"
WHOLE, RESET, CUT, STALL = "whole", "reset", "cut", "stall"


@dataclass
class Answer:
    """`pieces` are sent one by one; `end` says what then becomes of the connection."""

    status: int = 200
    pieces: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict[str, str])
    content_type: str = "application/json"
    end: str = WHOLE


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


def as_json(found: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, [json.dumps(found).encode()], named)


def as_events(*events: Any, end: str = WHOLE, last: bytes = b"") -> Answer:
    """Each event as `data:` JSON; one with a "type" also names it, as Anthropic does."""
    pieces = [_event(event) for event in events]
    return Answer(200, [*pieces, last] if last else pieces, {}, "text/event-stream", end)


def _event(event: Any) -> bytes:
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()


class FakeUpstream:
    """Answers by path, each path's answers in turn; the last one again and again."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self._answers: dict[str, list[Answer]] = {}

    def on(self, path: str, *answers: Answer) -> None:
        self._answers[path] = list(answers)

    def bodies(self, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.path.partition("?")[0] == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        method, path, _ = first.split()
        text = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(method, path, headers, json.loads(text) if text else None))
        waiting = self._answers.get(path.partition("?")[0]) or [as_json({"error": "?"}, 404)]
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return await self._send(answer, reader, writer)

    async def _send(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        headers = {"Content-Type": answer.content_type, "Transfer-Encoding": "chunked"}
        lines = [f"{name}: {value}" for name, value in (headers | answer.headers).items()]
        head = [f"HTTP/1.1 {answer.status} X", *lines, "", ""]
        writer.write("\r\n".join(head).encode())
        for piece in answer.pieces:
            if piece:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
        if answer.end == WHOLE:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if answer.end == STALL:
            with suppress(ConnectionError):
                await reader.read(1)
            self.gone.set()
        if answer.end == RESET:
            writer.transport.abort()
        return False


@asynccontextmanager
async def fake_upstream() -> AsyncGenerator[FakeUpstream, None]:
    fake = FakeUpstream()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()


def provider(
    register: Callable[[Registry], None], url: str, name: str = "", **settings: Any
) -> Provider:
    """The provider as the box builds it. The caller closes it."""
    registry = Registry()
    register(registry)
    context = PluginContext(
        data_dir=Path("/nonexistent"),
        runtime_dir=Path("/nonexistent"),
        settings={"base_url": url} | settings,
        models=ListedModels({}),
        child_argv=processes.child_argv,
        child_env=processes.child_env,
        host_env=processes.host_env,
        sandbox_python=lambda: Path("/nonexistent"),
        name=name,
    )
    return next(iter(registry.providers.values()))(context)


def ask(text: str = "Hi", model: str = "m", **more: Any) -> CompletionRequest:
    return CompletionRequest(model, (Message(MessageRole.USER, text),), **more)


async def told(found: Provider, request: CompletionRequest) -> list[CompletionEvent]:
    return [event async for event in found.stream(request)]


async def give_up(events: AsyncIterator[CompletionEvent]) -> None:
    """Close a stream before its end, as the SPI allows."""
    await cast("AsyncGenerator[CompletionEvent, None]", events).aclose()


def text_of(events: Sequence[CompletionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
