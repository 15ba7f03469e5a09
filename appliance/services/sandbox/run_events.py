"""What a running program says, handed on piece by piece."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from appliance.domain.execution import OutputStream
from appliance.services.sandbox.programs import ProgramResult


class Waits(Struct, frozen=True):
    """The run has a place in the queue: 1 is next."""

    place: int


class Started(Struct, frozen=True):
    """The program begins. `live`: what it writes is told as it comes, else at its end."""

    live: bool
    language: str | None
    version: str | None


class Output(Struct, frozen=True):
    stream: OutputStream
    data: bytes


class Finished(Struct, frozen=True):
    result: ProgramResult


Event = Waits | Started | Output | Finished


class Feed:
    """Between a run and its reader: keeps what was not read yet, up to `most` bytes a stream.

    Output beyond that is in no event; the result holds its end, as always. `begun`: the
    program began.
    """

    def __init__(self, started: Started, most: int) -> None:
        self._started = started
        self._room = dict.fromkeys(OutputStream, most)
        self._events: deque[Started | tuple[OutputStream, bytearray]] = deque()
        self._moved = asyncio.Event()
        self.begun = False

    def start(self) -> None:
        self.begun = True
        self._events.append(self._started)
        self._moved.set()

    def output(self, stream: OutputStream, data: bytes) -> None:
        fits = data[: self._room[stream]]
        if not fits:
            return
        self._room[stream] -= len(fits)
        last = self._events[-1] if self._events else None
        # Joined, so that a program that writes byte by byte fills no memory with events.
        if isinstance(last, tuple) and last[0] is stream:
            last[1].extend(fits)
        else:
            self._events.append((stream, bytearray(fits)))
        self._moved.set()

    async def until(self, run: "asyncio.Task[Any]") -> AsyncGenerator[Started | Output, None]:
        """The events as they come, to the end of `run`."""
        run.add_done_callback(lambda _: self._moved.set())
        while True:
            while self._events:
                event = self._events.popleft()
                yield event if isinstance(event, Started) else Output(event[0], bytes(event[1]))
            if run.done():
                return
            self._moved.clear()
            await self._moved.wait()
