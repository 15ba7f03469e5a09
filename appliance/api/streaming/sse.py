"""Server-sent events: frames with ids, and heartbeats while there is nothing to tell."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import msgspec
from litestar import Request
from litestar.response import Stream

from appliance.errors import InvalidInput

HEARTBEAT_S = 15.0
HEARTBEAT = b": heartbeat\n\n"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_ID_DIGITS = 18
_AHEAD = 16  # frames that may wait for a slow client


class Encodable(Protocol):
    """One event of a stream that knows its own bytes."""

    def encode(self) -> bytes: ...


class Frame(NamedTuple):
    """One event of a stream: its place in the journal and its JSON."""

    id: int
    data: Mapping[str, Any]

    def encode(self) -> bytes:
        # JSON has no bare line breaks, so that one data line always holds it all.
        return b"id: %d\ndata: %s\n\n" % (self.id, msgspec.json.encode(self.data))


class NamedFrame(NamedTuple):
    """One event under the name that its JSON has as `type`."""

    data: Mapping[str, Any]

    def encode(self) -> bytes:
        name: str = self.data["type"]
        return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(self.data))


Frames = AsyncGenerator[Frame, None]
_Item = Encodable | Exception | None
_Queue = asyncio.Queue[_Item]


def event_stream(frames: Frames, heartbeat_s: float = HEARTBEAT_S) -> Stream:
    """The answer that sends frames as they come, and ends with them."""
    return Stream(
        encoded(frames, heartbeat_s), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def encoded(
    frames: AsyncGenerator[Encodable, None], heartbeat_s: float, heartbeat: bytes = HEARTBEAT
) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream; a `heartbeat` each `heartbeat_s` keeps idle connections open."""
    # The journal is read in a task of its own: a client that goes away, at whatever
    # await, cancels that task, which then closes the journal's reader in peace.
    queue: _Queue = asyncio.Queue(_AHEAD)
    pump = asyncio.create_task(_pump(frames, queue))
    try:
        while True:
            try:
                item = await _next(queue, heartbeat_s)
            except TimeoutError:
                yield heartbeat
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item.encode()
    finally:
        pump.cancel()


def last_event_id(request: Request[Any, Any, Any], after: int | None = None) -> int:
    """Where a client left off: its query, else its Last-Event-ID, else the start."""
    if after is not None:
        return after
    given = request.headers.get("last-event-id", "").strip()
    if not given:
        return 0
    if not (given.isascii() and given.isdigit() and len(given) <= _ID_DIGITS):
        raise InvalidInput.at("Last-Event-ID", "must be the id of an event of this stream")
    return int(given)


async def _next(queue: _Queue, within_s: float) -> _Item:
    """What is there already, which needs no timer, or comes in time. Raises TimeoutError."""
    if not queue.empty():
        return queue.get_nowait()
    async with asyncio.timeout(within_s):
        return await queue.get()


async def _pump(frames: AsyncGenerator[Encodable, None], queue: _Queue) -> None:
    """Hand over frame after frame, then None or what went wrong."""
    try:
        async with aclosing(frames):
            async for frame in frames:
                await queue.put(frame)
    except Exception as error:
        await queue.put(error)  # the reader raises it, in the request that it belongs to
    else:
        await queue.put(None)
