"""Buffers the events of a completion, so that it runs at its own pace."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from appliance.domain.completions import CompletionReport
from appliance.domain.messages import CompletionEvent
from appliance.inference import CompletionRun


class BufferedCompletion:
    """Reads a completion in a task of its own and keeps the events until they are consumed.

    Needed where one request has several choices: the ones in the queue start only when
    earlier ones have ended, and those must not wait for a reader that takes the choices
    one after another. The buffer is bounded by the length of the answer.
    """

    def __init__(self, running: CompletionRun) -> None:
        self._running = running
        self._events: deque[CompletionEvent] = deque()
        self._changed = asyncio.Event()
        self._first_event = asyncio.Event()
        self._task = asyncio.create_task(self._pump(), name="completion")
        self._task.add_done_callback(self._wake)

    @property
    def report(self) -> CompletionReport:
        return self._running.report

    async def wait_for_first_event(self) -> None:
        """Return at the first event. Raises the error of a completion that failed before it."""
        await self._first_event.wait()
        if not self._events and self._task.done():
            self._task.result()

    def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        return self._read()

    async def aclose(self) -> None:
        """Cancel the completion. Its error is raised to the reader only, not here."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> AsyncGenerator[CompletionEvent, None]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._task.done():
                self._task.result()
                return
            self._changed.clear()
            await self._changed.wait()

    async def _pump(self) -> None:
        try:
            await self._running.start()
            async for event in self._running:
                self._events.append(event)
                self._first_event.set()
                self._changed.set()
        finally:
            await self._running.aclose()

    def _wake(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # mark as retrieved: the reader may never ask for it
        self._first_event.set()
        self._changed.set()
