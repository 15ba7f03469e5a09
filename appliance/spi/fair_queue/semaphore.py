"""A semaphore whose waiters are served in the order of a FairQueue."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.spi.fair_queue.fair_queue import FairQueue
from appliance.spi.fair_queue.requests import Entry, EntryState, QueueRequest


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

    def enter(self, request: QueueRequest) -> "Ticket":
        """A place in the queue, perhaps with the right to run, which the caller releases.

        Raises QueueFull.
        """
        entry = self._queue.start(request)
        if entry is None:
            entry = self._queue.push(request)
            self._grants[entry.number] = asyncio.get_running_loop().create_future()
            self._serve()
        return Ticket(self, entry)

    async def acquire(self, request: QueueRequest) -> "Ticket":
        """Wait for the right to run, which the caller releases. Raises QueueFull."""
        ticket = self.enter(request)
        if not ticket.is_granted:
            await ticket.wait()
        return ticket

    @asynccontextmanager
    async def hold(self, request: QueueRequest) -> AsyncGenerator[None, None]:
        """Have the right to run inside the block, after waiting for it. Raises QueueFull."""
        ticket = await self.acquire(request)
        try:
            yield
        finally:
            ticket.release()

    def place(self, request: QueueRequest) -> int:
        """See FairQueue.place."""
        return self._queue.place(request)

    async def wait_for(self, entry: Entry) -> None:
        """Return when the entry runs; called by Ticket.wait only."""
        if grant := self._grants.get(entry.number):
            await grant

    def release(self, entry: Entry) -> None:
        """Called by Ticket.release only."""
        self._queue.release(entry)
        if grant := self._grants.pop(entry.number, None):
            grant.cancel()
        if self._queue.waiting:
            self._serve()

    def _serve(self) -> None:
        while entry := self._queue.pop():
            grant = self._grants.pop(entry.number)
            if not grant.done():  # else its waiter was cancelled, and will release the ticket
                grant.set_result(None)


class Ticket:
    """A request's place in the queue, then its right to run."""

    __slots__ = ("_entry", "_semaphore")

    def __init__(self, semaphore: FairSemaphore, entry: Entry) -> None:
        self._semaphore = semaphore
        self._entry = entry

    @property
    def is_granted(self) -> bool:
        return self._entry.state is EntryState.RUNNING

    async def wait(self) -> None:
        """Wait for the right to run. If the call is cancelled, the ticket is released."""
        try:
            await self._semaphore.wait_for(self._entry)
        except asyncio.CancelledError:
            self.release()
            raise

    def release(self) -> None:
        """Leave the queue, or let the next one run; further calls do nothing."""
        if self._entry.state is not EntryState.ENDED:
            self._semaphore.release(self._entry)
