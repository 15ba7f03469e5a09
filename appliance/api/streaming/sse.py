"""Server-sent events: frames, their encoding, and heartbeats on idle streams."""

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
_MAX_BUFFERED_FRAMES = 16  # frames buffered for a slow client


class Encodable(Protocol):
    """One event of a stream."""

    def encode(self) -> bytes: ...


class Frame(NamedTuple):
    """An event with an id: its sequence number in the journal, and its JSON."""

    id: int
    data: Mapping[str, Any]

    def encode(self) -> bytes:
        # Encoded JSON has no line breaks, so one data line holds it.
        return b"id: %d\ndata: %s\n\n" % (self.id, msgspec.json.encode(self.data))


class NamedFrame(NamedTuple):
    """An event with a name, which is the `type` of its JSON."""

    data: Mapping[str, Any]

    def encode(self) -> bytes:
        name: str = self.data["type"]
        return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(self.data))


Frames = AsyncGenerator[Frame, None]
_Item = Encodable | Exception | None
_Queue = asyncio.Queue[_Item]


def event_stream_response(frames: Frames, heartbeat_s: float = HEARTBEAT_S) -> Stream:
    """A response that sends the frames as they arrive."""
    return Stream(
        encode_stream(frames, heartbeat_s), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def encode_stream(
    frames: AsyncGenerator[Encodable, None], heartbeat_s: float, heartbeat: bytes = HEARTBEAT
) -> AsyncGenerator[bytes, None]:
    """The encoded frames; `heartbeat` after each `heartbeat_s` without one."""
    # The frames are read in a task of its own, so that a disconnect, which can cancel this
    # generator at any await, lets the source of the frames close in order.
    queue: _Queue = asyncio.Queue(_MAX_BUFFERED_FRAMES)
    pump = asyncio.create_task(_pump_frames(frames, queue))
    try:
        while True:
            try:
                item = await _next_item(queue, heartbeat_s)
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


def find_last_event_id(request: Request[Any, Any, Any], after: int | None = None) -> int | None:
    """The last event that the client has seen: `after`, else Last-Event-ID. Raises InvalidInput."""
    if after is not None:
        return after
    header = request.headers.get("last-event-id", "").strip()
    if not header:
        return None
    if not (header.isascii() and header.isdigit() and len(header) <= _ID_DIGITS):
        raise InvalidInput.at(
            "Last-Event-ID", f"must be an event id of at most {_ID_DIGITS} digits"
        )
    return int(header)


async def _next_item(queue: _Queue, within_s: float) -> _Item:
    """The next item. Raises TimeoutError. No timer is set if an item is queued already."""
    if not queue.empty():
        return queue.get_nowait()
    async with asyncio.timeout(within_s):
        return await queue.get()


async def _pump_frames(frames: AsyncGenerator[Encodable, None], queue: _Queue) -> None:
    """Queue each frame, then None or the exception."""
    try:
        async with aclosing(frames):
            async for frame in frames:
                await queue.put(frame)
    except Exception as error:
        await queue.put(error)  # raised by the reader, in the context of its request
    else:
        await queue.put(None)
