"""The event bus: streams the journal of a task or the feed of a user: backlog, then new events.

The store is authoritative; published events only save followers from reading it again. Both
sequences count by 1, so a follower that was offered the next number has missed nothing. One that
was not, or whose buffer overflowed, reads the store instead. What a follower holds is bounded
by its buffer and one batch of the store.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

from appliance.domain.tasks import TaskEvent
from appliance.domain.user_events import UserEvent

_MAX_BUFFERED = 64
_JOURNAL_BATCH = 100
# Smaller: many feeds may read their backlog at once.
_FEED_BATCH = 25
# Events written by another process are not published here, so followers poll the store.
POLL_S = 10.0


class Sequenced(Protocol):
    """An event with its number in its sequence."""

    @property
    def seq(self) -> int: ...


E = TypeVar("E", bound=Sequenced)
ReadAfter = Callable[[int, int, int], Awaitable[Sequence[E]]]
ReadJournal = ReadAfter[TaskEvent]
ReadFeed = ReadAfter[UserEvent]


class Follower(Generic[E]):
    """The buffer of one follower. If `lagging`, it may have missed events: read the store."""

    def __init__(self) -> None:
        self.events: deque[E] = deque()
        self.lagging = True
        self.has_news = asyncio.Event()

    def offer(self, event: E) -> None:
        if len(self.events) >= _MAX_BUFFERED:
            self.events.clear()
            self.lagging = True
        if not self.lagging:
            self.events.append(event)
        self.has_news.set()

    async def wait(self) -> None:
        """Wait for an event, for at most POLL_S; then the store must be read."""
        try:
            async with asyncio.timeout(POLL_S):
                await self.has_news.wait()
        except TimeoutError:
            self.lagging = True


class EventBus:
    """`read_journal(task_id, after_seq, limit)` and `read_feed(user_id, after_seq, limit)` read
    the stored events in order."""

    def __init__(self, read_journal: ReadJournal, read_feed: ReadFeed) -> None:
        self._read_journal = read_journal
        self._tasks = _Sequences(read_journal, _JOURNAL_BATCH)
        self._users = _Sequences(read_feed, _FEED_BATCH)

    def publish(self, event: UserEvent) -> None:
        """Pass a stored event to the followers of its user and its task, after the commit."""
        self._users.publish(event.user_id, event)
        task_event = event.task_event()
        if task_event is not None:
            self._tasks.publish(task_event.task_id, task_event)

    def followers(self, task_id: int) -> Collection[Follower[TaskEvent]]:
        """The current followers of a task."""
        return self._tasks.followers(task_id)

    def user_followers(self, user_id: int) -> Collection[Follower[UserEvent]]:
        """The current followers of a user's feed."""
        return self._users.followers(user_id)

    def close(self) -> None:
        """End every stream of events, current and future, for a shutdown."""
        self._tasks.close()
        self._users.close()

    async def follow(self, task_id: int, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Yield each event with a seq above `after`, once and in order, up to the final one.

        An `after` that is not in this journal counts as 0. The task must exist.
        """
        last = await self._resume_point(task_id, after)
        if last is None:
            return
        async with aclosing(self._tasks.follow(task_id, last)) as events:
            async for event in events:
                yield event
                if event.final:
                    return

    async def follow_user(self, user_id: int, after: int) -> AsyncGenerator[UserEvent, None]:
        """Yield each event of the user with a seq above `after`, once and in order, until `close`.

        A client resumes with the `seq` of the last event that it has seen. Events that were
        deleted meanwhile, with their task, are skipped.
        """
        async with aclosing(self._users.follow(user_id, after)) as events:
            async for event in events:
                yield event

    async def _resume_point(self, task_id: int, after: int) -> int | None:
        """The seq to continue after; None if `after` is the final event."""
        events = await self._read_journal(task_id, after - 1, 1) if after > 0 else ()
        if not events or events[0].seq != after:
            return 0
        return None if events[0].final else after


class _Sequences(Generic[E]):
    """The followers of all sequences of one kind, by the id of their task or user."""

    def __init__(self, read: ReadAfter[E], batch: int) -> None:
        self._read = read
        self._batch = batch
        self._followers: dict[int, set[Follower[E]]] = {}
        self._closed = False

    def publish(self, key: int, event: E) -> None:
        for follower in self.followers(key):
            follower.offer(event)

    def followers(self, key: int) -> Collection[Follower[E]]:
        return self._followers.get(key, ())

    def close(self) -> None:
        self._closed = True
        for followers in self._followers.values():
            for follower in followers:
                follower.has_news.set()

    async def follow(self, key: int, last: int) -> AsyncGenerator[E, None]:
        """Yield each event with a seq above `last`, once and in order, until `close`."""
        follower = Follower[E]()
        self._followers.setdefault(key, set()).add(follower)
        try:
            while not self._closed:
                for event in await self._next(follower, key, last):
                    yield event
                    last = event.seq
        finally:
            self._remove_follower(key, follower)

    async def _next(self, follower: Follower[E], key: int, last: int) -> Sequence[E]:
        """The events after `last`: from the buffer if it has no gap, else from the store."""
        if not follower.lagging:
            if not follower.events:
                follower.has_news.clear()
                await follower.wait()
                return ()
            event = follower.events.popleft()
            if event.seq <= last + 1:
                return (event,) if event.seq == last + 1 else ()
        # Buffer events before reading the store: those committed meanwhile are not missed.
        follower.events.clear()
        follower.lagging = False
        batch = await self._read(key, last, self._batch)
        if len(batch) == self._batch:
            follower.lagging = True
        return batch

    def _remove_follower(self, key: int, follower: Follower[E]) -> None:
        followers = self._followers[key]
        followers.discard(follower)
        if not followers:
            del self._followers[key]
