"""A fake remote provider on loopback: sends, byte for byte, the responses that a test scripted."""

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
from tests.support.llama_provider import ListedModels

KEY = "sk-hush-0123456789abcdef"
# How a response ends: complete, TCP reset, closed halfway, or open and silent.
WHOLE, RESET, CUT, STALL = "whole", "reset", "cut", "stall"


@dataclass
class FakeResponse:
    """`chunks` are sent one by one; `end` (WHOLE, RESET, CUT or STALL) is what follows them."""

    status: int = 200
    chunks: Sequence[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict[str, str])
    content_type: str = "application/json"
    end: str = WHOLE


@dataclass
class ReceivedRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


def as_json(body: Any, status: int = 200, **headers: str) -> FakeResponse:
    """`headers` take underscores for hyphens: `retry_after`."""
    hyphenated = {name.replace("_", "-"): value for name, value in headers.items()}
    return FakeResponse(status, [json.dumps(body).encode()], hyphenated)


def as_events(*events: Any, end: str = WHOLE, last: bytes = b"") -> FakeResponse:
    """Each event as `data:` JSON; one with a "type" also names it, as Anthropic does."""
    chunks = [_event(event) for event in events]
    return FakeResponse(200, [*chunks, last] if last else chunks, {}, "text/event-stream", end)


def _event(event: Any) -> bytes:
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()


class FakeUpstream:
    """Serves each path's responses in turn; the last one repeats."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.client_closed = asyncio.Event()
        self._responses: dict[str, list[FakeResponse]] = {}

    def on(self, path: str, *responses: FakeResponse) -> None:
        self._responses[path] = list(responses)

    def bodies(self, path: str) -> list[Any]:
        return [each.body for each in self.requests if each.path.partition("?")[0] == path]

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
        body = json.loads(text) if text else None
        self.requests.append(ReceivedRequest(method, path, headers, body))
        responses = self._responses.get(path.partition("?")[0]) or [as_json({"error": "?"}, 404)]
        response = responses.pop(0) if len(responses) > 1 else responses[0]
        return await self._send(response, reader, writer)

    async def _send(
        self, response: FakeResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        headers = {"Content-Type": response.content_type, "Transfer-Encoding": "chunked"}
        lines = [f"{name}: {value}" for name, value in (headers | response.headers).items()]
        head = [f"HTTP/1.1 {response.status} X", *lines, "", ""]
        writer.write("\r\n".join(head).encode())
        for chunk in response.chunks:
            if chunk:
                writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                await writer.drain()
        if response.end == WHOLE:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if response.end == STALL:
            with suppress(ConnectionError):
                await reader.read(1)
            self.client_closed.set()
        if response.end == RESET:
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


def build_provider(
    register: Callable[[Registry], None], url: str, name: str = "", **settings: Any
) -> Provider:
    """The provider as the server builds it. The caller closes it."""
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


def completion_request(text: str = "Hi", model: str = "m", **more: Any) -> CompletionRequest:
    return CompletionRequest(model, (Message(MessageRole.USER, text),), **more)


async def collect_events(provider: Provider, request: CompletionRequest) -> list[CompletionEvent]:
    return [event async for event in provider.stream(request)]


async def close_early(events: AsyncIterator[CompletionEvent]) -> None:
    """Close a stream before its end, as the SPI allows."""
    await cast("AsyncGenerator[CompletionEvent, None]", events).aclose()


def text_of(events: Sequence[CompletionEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))
