"""A semaphore whose waiters are served in the order of a FairQueue."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.spi.fair_queue.fair_queue import FairQueue
from appliance.spi.fair_queue.requests import Entry, QueueRequest


class FairSemaphore:
    """Lets requests run as the limits of its queue allow. For one event loop."""

    def __init__(self, queue: FairQueue) -> None:
        self._queue = queue
        self._grants: dict[int, asyncio.Future[None]] = {}

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    @property
    def running(self) -> int:
        return self._queue.running

    async def acquire(self, request: QueueRequest) -> "Ticket":
        """Wait for the right to run, which the caller releases. Raises QueueFull.

        Cancelling the call leaves the queue.
        """
        entry = self._queue.start(request)
        return Ticket(self, await self._wait(request) if entry is None else entry)

    @asynccontextmanager
    async def hold(self, request: QueueRequest) -> AsyncGenerator[None, None]:
        """Have the right to run inside the block, after waiting for it. Raises QueueFull."""
        ticket = await self.acquire(request)
        try:
            yield
        finally:
            ticket.release()

    def release(self, entry: Entry) -> None:
        """Called by Ticket.release only; further calls do nothing."""
        self._queue.release(entry)
        if self._queue.waiting:
            self._serve()

    async def _wait(self, request: QueueRequest) -> Entry:
        entry = self._queue.push(request)
        grant = self._grants[entry.number] = asyncio.get_running_loop().create_future()
        self._serve()
        try:
            await grant
        except asyncio.CancelledError:
            self._grants.pop(entry.number, None)
            self.release(entry)
            raise
        return entry

    def _serve(self) -> None:
        while entry := self._queue.pop():
            grant = self._grants.pop(entry.number)
            if not grant.done():  # else its waiter is being cancelled, and releases the entry
                grant.set_result(None)


class Ticket:
    """The right to run one request."""

    __slots__ = ("_entry", "_semaphore")

    def __init__(self, semaphore: FairSemaphore, entry: Entry) -> None:
        self._semaphore = semaphore
        self._entry = entry

    def release(self) -> None:
        """Let the next one run; further calls do nothing."""
        self._semaphore.release(self._entry)
