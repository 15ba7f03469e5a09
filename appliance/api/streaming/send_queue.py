"""The frames that wait for the client of a WebSocket: bounded, with heartbeats."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

MAX_FRAMES = 256
MAX_BYTES = 1024 * 1024
HEARTBEAT_S = 15.0
SILENT_S = 60.0


class SilentReader(Exception):
    """The client has taken no frame for SILENT_S."""


class SendQueue:
    """At most MAX_FRAMES frames or MAX_BYTES; a larger frame waits alone.

    `run` sends them, and `heartbeat`, unless it is empty, whenever there was none for
    HEARTBEAT_S.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], heartbeat: bytes = b"") -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()

    async def put(self, frame: bytes) -> None:
        """Queue a frame as soon as there is space."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_space(frame))
            self._frames.append(frame)
            self._bytes += len(frame)
            self._changed.notify_all()

    async def flush(self) -> None:
        """Wait until all frames are sent."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._frames)

    async def run(self) -> None:
        """Send frames until cancelled. Raises SilentReader, and what sending raises."""
        while True:
            frame = await self._next_frame()
            try:
                # Sending waits while the buffers of the connection are full.
                async with asyncio.timeout(SILENT_S):
                    await self._send(frame or self._heartbeat)
            except TimeoutError:
                raise SilentReader from None
            if frame is not None:
                await self._remove(frame)

    async def _next_frame(self) -> bytes | None:
        """The first frame, which stays in the queue while it is sent; None for a heartbeat."""
        try:
            async with asyncio.timeout(HEARTBEAT_S if self._heartbeat else None), self._changed:
                await self._changed.wait_for(lambda: self._frames)
        except TimeoutError:
            return None
        return self._frames[0]

    async def _remove(self, frame: bytes) -> None:
        async with self._changed:
            self._frames.popleft()
            self._bytes -= len(frame)
            self._changed.notify_all()

    def _has_space(self, frame: bytes) -> bool:
        if not self._frames:
            return True
        return len(self._frames) < MAX_FRAMES and self._bytes + len(frame) <= MAX_BYTES
