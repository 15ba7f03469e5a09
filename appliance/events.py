"""Who follows a task sees its whole journal: first what is written, then what comes.

The journal is the only truth; the bus saves reading it again for each new event. A
follower that is too slow for its small buffer drops the buffer and reads the journal.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

from appliance.domain.tasks import TaskEvent

ReadJournal = Callable[[int, int, int], Awaitable[Sequence[TaskEvent]]]

_BUFFER = 64
_BATCH = 100
# An event that another process wrote is never published here: look from time to time.
LOOK_S = 10.0


class Follower:
    """What was published since a follower last looked; `lagging` when that is not all."""

    def __init__(self) -> None:
        self.events: deque[TaskEvent] = deque()
        self.lagging = True
        self.news = asyncio.Event()

    def offer(self, event: TaskEvent) -> None:
        if len(self.events) >= _BUFFER:
            self.events.clear()
            self.lagging = True
        if not self.lagging:
            self.events.append(event)
        self.news.set()

    async def wait(self) -> None:
        """Until something was published, or for a while."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self.news.wait()
        except TimeoutError:
            self.lagging = True


class EventBus:
    """`read(task_id, after_seq, limit)` reads the journal in order."""

    def __init__(self, read: ReadJournal) -> None:
        self._read = read
        self._followers: dict[int, set[Follower]] = {}
        self._closed = False

    def publish(self, event: TaskEvent) -> None:
        """Hand a journalled event to those who follow its task; call it after the commit."""
        for follower in self.followers(event.task_id):
            follower.offer(event)

    def followers(self, task_id: int) -> Collection[Follower]:
        """Who follows a task now."""
        return self._followers.get(task_id, ())

    def close(self) -> None:
        """End every `follow`, now and later: the box is shutting down."""
        self._closed = True
        for followers in self._followers.values():
            for follower in followers:
                follower.news.set()

    async def follow(self, task_id: int, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Each event with a seq above `after`, once and in order, up to the final one.

        An `after` that is not in this journal counts as 0. The task must exist.
        """
        last = await self._known(task_id, after)
        follower = Follower()
        self._followers.setdefault(task_id, set()).add(follower)
        try:
            while last is not None and not self._closed:
                for event in await self._next(follower, task_id, last):
                    yield event
                    last = None if event.kind.final else event.seq
        finally:
            self._forget(task_id, follower)

    async def _known(self, task_id: int, after: int) -> int | None:
        """The seq to go on from; None if the journal ends with `after`."""
        found = await self._read(task_id, after - 1, 1) if after > 0 else ()
        if not found or found[0].seq != after:
            return 0
        return None if found[0].kind.final else after

    async def _next(self, follower: Follower, task_id: int, last: int) -> Sequence[TaskEvent]:
        """What follows `last`, from the buffer if it connects, else from the journal."""
        if not follower.lagging:
            if not follower.events:
                follower.news.clear()
                await follower.wait()
                return ()
            event = follower.events.popleft()
            if event.seq <= last + 1:
                return (event,) if event.seq == last + 1 else ()
        # Published events are kept from here on: what is committed later is not missed.
        follower.events.clear()
        follower.lagging = False
        batch = await self._read(task_id, last, _BATCH)
        if len(batch) == _BATCH:
            follower.lagging = True
        return batch

    def _forget(self, task_id: int, follower: Follower) -> None:
        followers = self._followers[task_id]
        followers.discard(follower)
        if not followers:
            del self._followers[task_id]
