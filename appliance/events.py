"""The event bus: streams the journal of a task, first its backlog, then new events.

The journal is authoritative; published events only save followers from reading it again.
A follower whose buffer overflows drops the buffer and reads the journal instead.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

from appliance.domain.tasks import TaskEvent

ReadJournal = Callable[[int, int, int], Awaitable[Sequence[TaskEvent]]]

_MAX_BUFFERED = 64
_READ_BATCH = 100
# Events written by another process are not published here, so followers poll the journal.
POLL_S = 10.0


class Follower:
    """The buffer of one follower. If `lagging`, it may have missed events: read the journal."""

    def __init__(self) -> None:
        self.events: deque[TaskEvent] = deque()
        self.lagging = True
        self.has_news = asyncio.Event()

    def offer(self, event: TaskEvent) -> None:
        if len(self.events) >= _MAX_BUFFERED:
            self.events.clear()
            self.lagging = True
        if not self.lagging:
            self.events.append(event)
        self.has_news.set()

    async def wait(self) -> None:
        """Wait for an event, for at most POLL_S; then the journal must be read."""
        try:
            async with asyncio.timeout(POLL_S):
                await self.has_news.wait()
        except TimeoutError:
            self.lagging = True


class EventBus:
    """`read(task_id, after_seq, limit)` reads the journal in order."""

    def __init__(self, read: ReadJournal) -> None:
        self._read = read
        self._followers: dict[int, set[Follower]] = {}
        self._closed = False

    def publish(self, event: TaskEvent) -> None:
        """Pass a journaled event to the followers of its task. Call it after the commit."""
        for follower in self.followers(event.task_id):
            follower.offer(event)

    def followers(self, task_id: int) -> Collection[Follower]:
        """The current followers of a task."""
        return self._followers.get(task_id, ())

    def close(self) -> None:
        """End every `follow`, current and future, for a shutdown."""
        self._closed = True
        for followers in self._followers.values():
            for follower in followers:
                follower.has_news.set()

    async def follow(self, task_id: int, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Yield each event with a seq above `after`, once and in order, up to the final one.

        An `after` that is not in this journal counts as 0. The task must exist.
        """
        last = await self._resume_point(task_id, after)
        follower = Follower()
        self._followers.setdefault(task_id, set()).add(follower)
        try:
            while last is not None and not self._closed:
                for event in await self._next(follower, task_id, last):
                    yield event
                    last = None if event.kind.final else event.seq
        finally:
            self._remove_follower(task_id, follower)

    async def _resume_point(self, task_id: int, after: int) -> int | None:
        """The seq to continue after; None if `after` is the final event."""
        events = await self._read(task_id, after - 1, 1) if after > 0 else ()
        if not events or events[0].seq != after:
            return 0
        return None if events[0].kind.final else after

    async def _next(self, follower: Follower, task_id: int, last: int) -> Sequence[TaskEvent]:
        """The events after `last`: from the buffer if it has no gap, else from the journal."""
        if not follower.lagging:
            if not follower.events:
                follower.has_news.clear()
                await follower.wait()
                return ()
            event = follower.events.popleft()
            if event.seq <= last + 1:
                return (event,) if event.seq == last + 1 else ()
        # Buffer events before reading the journal: those committed meanwhile are not missed.
        follower.events.clear()
        follower.lagging = False
        batch = await self._read(task_id, last, _READ_BATCH)
        if len(batch) == _READ_BATCH:
            follower.lagging = True
        return batch

    def _remove_follower(self, task_id: int, follower: Follower) -> None:
        followers = self._followers[task_id]
        followers.discard(follower)
        if not followers:
            del self._followers[task_id]
