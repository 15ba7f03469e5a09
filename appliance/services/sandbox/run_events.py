"""Events of a run: queued, started, output, finished; and their buffer."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from appliance.domain.execution import OutputStream
from appliance.services.sandbox.programs import ProgramResult


class Queued(Struct, frozen=True):
    """The run is queued; `place` 1 is next."""

    place: int


class Started(Struct, frozen=True):
    """The program starts. `live`: its output comes while it runs, else all at its end."""

    live: bool
    language: str | None
    version: str | None


class Output(Struct, frozen=True):
    stream: OutputStream
    data: bytes


class Finished(Struct, frozen=True):
    result: ProgramResult


RunEvent = Queued | Started | Output | Finished


class RunEvents:
    """Buffers the events of a run for one reader, up to `max_bytes` of output per stream.

    Output beyond that is dropped here; the result still holds what the limits keep of it.
    """

    def __init__(self, started: Started, max_bytes: int) -> None:
        self._started = started
        self._remaining = dict.fromkeys(OutputStream, max_bytes)
        self._events: deque[Started | tuple[OutputStream, bytearray]] = deque()
        self._changed = asyncio.Event()
        self.is_started = False

    def add_start(self) -> None:
        self.is_started = True
        self._events.append(self._started)
        self._changed.set()

    def add_output(self, stream: OutputStream, data: bytes) -> None:
        kept = data[: self._remaining[stream]]
        if not kept:
            return
        self._remaining[stream] -= len(kept)
        last = self._events[-1] if self._events else None
        # Merge: a program that writes byte by byte must not create an event per byte.
        if isinstance(last, tuple) and last[0] is stream:
            last[1].extend(kept)
        else:
            self._events.append((stream, bytearray(kept)))
        self._changed.set()

    async def follow(self, run: "asyncio.Task[Any]") -> AsyncGenerator[Started | Output, None]:
        """Yield the events until `run` is done."""
        run.add_done_callback(lambda _: self._changed.set())
        while True:
            while self._events:
                event = self._events.popleft()
                yield event if isinstance(event, Started) else Output(event[0], bytes(event[1]))
            if run.done():
                return
            self._changed.clear()
            await self._changed.wait()
