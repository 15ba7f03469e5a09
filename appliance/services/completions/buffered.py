"""A completion that runs on whether or not it is being read."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from appliance.domain.completions import Report
from appliance.domain.messages import CompletionEvent
from appliance.inference import Running


class Pumped:
    """Reads a completion in a task of its own and keeps its events until they are read.

    Several choices of one request need this: those that wait for room get it only when
    the first ones have come to their end, and those must not wait for their reader. What
    is kept is bounded by the length of the answer.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._events: deque[CompletionEvent] = deque()
        self._news = asyncio.Event()
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._pump(), name="completion")
        self._task.add_done_callback(self._wake)

    @property
    def report(self) -> Report:
        return self._running.report

    async def begin(self) -> None:
        """Wait for the first event. Raises what the completion failed with before it."""
        await self._begun.wait()
        if not self._events and self._task.done():
            self._task.result()

    def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        return self._read()

    async def aclose(self) -> None:
        """End it. Its failure is for the reader: who closes early does not want to know."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> AsyncGenerator[CompletionEvent, None]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._task.done():
                self._task.result()
                return
            self._news.clear()
            await self._news.wait()

    async def _pump(self) -> None:
        try:
            await self._running.begin()
            async for event in self._running:
                self._events.append(event)
                self._begun.set()
                self._news.set()
        finally:
            await self._running.aclose()

    def _wake(self, ended: asyncio.Task[None]) -> None:
        if not ended.cancelled():
            ended.exception()  # looked at here: a reader that has gone never will
        self._begun.set()
        self._news.set()
