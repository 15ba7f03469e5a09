"""Answers that stay open: server-sent events, and waits for a task's end."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

import msgspec
from litestar import Request
from litestar.response import Stream

from appliance.errors import InvalidInput, Unavailable

HEARTBEAT_S = 15.0
_HEARTBEAT = b": heartbeat\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_COME_BACK_S = 5.0

T = TypeVar("T")


class Frame(NamedTuple):
    """One event of a stream: its place in the journal and its JSON."""

    id: int
    data: Mapping[str, Any]

    def encode(self) -> bytes:
        # JSON has no bare line breaks, so that one data line always holds it all.
        return b"id: %d\ndata: %s\n\n" % (self.id, msgspec.json.encode(self.data))


_Queue = asyncio.Queue[Frame | Exception | None]


class OpenAnswers:
    """Every stream and wait of this API, so that a shutdown can end them at once.

    What they report on goes on without them; a client resumes with Last-Event-ID.
    """

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def stream(self, frames: AsyncGenerator[Frame, None]) -> Stream:
        """The answer that sends frames as they come, with heartbeats between them."""
        self._refuse_if_closed()
        return Stream(self._encoded(frames), media_type="text/event-stream", headers=_HEADERS)

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or Unavailable when the box shuts down first."""
        task = self._own(work)
        await asyncio.wait((task,))
        if task.cancelled():
            self._refuse_if_closed()
        return task.result()

    def close(self) -> None:
        """End all of them; new ones are refused."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()

    async def _encoded(self, frames: AsyncGenerator[Frame, None]) -> AsyncGenerator[bytes, None]:
        # The journal is read in a task of its own: a client that goes away at any
        # await cancels that task, which then closes the journal's reader in peace.
        queue: _Queue = asyncio.Queue(maxsize=1)
        pump = self._own(_pump(frames, queue))
        try:
            while (item := await self._next(queue)) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item if isinstance(item, bytes) else item.encode()
        finally:
            pump.cancel()

    async def _next(self, queue: _Queue) -> Frame | Exception | bytes | None:
        try:
            async with asyncio.timeout(self._heartbeat_s):
                return await queue.get()
        except TimeoutError:
            return _HEARTBEAT

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable(
                "the box is shutting down; accepted tasks go on when it is back",
                retry_after=_COME_BACK_S,
            )


def last_event_id(request: Request[Any, Any, Any], after: int | None = None) -> int:
    """Where a client left off: its query, else its Last-Event-ID, else the start."""
    if after is not None:
        return after
    given = request.headers.get("last-event-id", "").strip()
    if not given:
        return 0
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(2**62))):
        raise InvalidInput.at("Last-Event-ID", "must be the id of an event of this stream")
    return int(given)


async def _pump(frames: AsyncGenerator[Frame, None], queue: _Queue) -> None:
    try:
        async with aclosing(frames):
            async for frame in frames:
                await queue.put(frame)
        await queue.put(None)
    except asyncio.CancelledError:
        # The reader must see the end, even with a frame still waiting for it.
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
        raise
    except Exception as error:
        # Raised again by the reader, in the request that it belongs to.
        await queue.put(error)


