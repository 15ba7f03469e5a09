import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from appliance import events
from appliance.domain.tasks import EventKind, TaskEvent
from appliance.domain.user_events import UserEvent
from appliance.events import EventBus


class Journal:
    """The journal of task 1 in memory, which counts how often it is read."""

    def __init__(self) -> None:
        self.events: list[UserEvent] = []
        self.reads = 0
        self.bus = EventBus(self.read, self.read_feed)

    async def read(self, task_id: int, after: int, limit: int) -> Sequence[TaskEvent]:
        events = [event.task_event() for event in await self.read_feed(1, after, limit)]
        return [event for event in events if event and event.task_id == task_id]

    async def read_feed(self, user_id: int, after: int, limit: int) -> Sequence[UserEvent]:
        self.reads += 1
        await asyncio.sleep(0)
        return [event for event in self.events if event.seq > after][:limit]

    def write(self, kind: EventKind = EventKind.PROGRESS, *, publish: bool = True) -> UserEvent:
        seq = len(self.events) + 1
        event = UserEvent(1, seq, 0.0, kind, {}, task_id=1, task_public_id="task", task_seq=seq)
        self.events.append(event)
        if publish:
            self.bus.publish(event)
        return event


@pytest.fixture
def journal() -> Journal:
    return Journal()


async def _follow(journal: Journal, after: int = 0) -> list[int]:
    return [event.seq async for event in journal.bus.follow(1, after)]


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_follow_when_events_come_before_and_after_then_all_once_in_order(journal: Journal):
    for _ in range(3):
        journal.write()
    follower = asyncio.create_task(_follow(journal))
    for _ in range(5):
        journal.write()
        await _settle()
    journal.write(EventKind.COMPLETED)
    assert await follower == [1, 2, 3, 4, 5, 6, 7, 8, 9]


async def test_follow_when_live_then_the_journal_is_not_read_for_each_event(journal: Journal):
    journal.write()
    followers = [asyncio.create_task(_follow(journal)) for _ in range(10)]
    await _settle()
    for _ in range(50):
        journal.write()
        await _settle()
    journal.write(EventKind.COMPLETED)
    assert await asyncio.gather(*followers) == [list(range(1, 53))] * 10
    assert journal.reads == 10


async def test_follow_when_resumed_anywhere_then_each_event_is_seen_once(journal: Journal):
    for _ in range(250):
        journal.write()
    journal.write(EventKind.FAILED)
    for after in (0, 1, 99, 100, 101, 249, 250):
        assert await _follow(journal, after) == list(range(after + 1, 252))


async def test_follow_when_resumed_after_the_end_then_it_ends_at_once(journal: Journal):
    journal.write()
    journal.write(EventKind.COMPLETED)
    assert await _follow(journal, 2) == []


@pytest.mark.parametrize("after", [-5, 3, 10**12])
async def test_follow_when_the_cursor_is_not_of_this_journal_then_from_the_start(
    journal: Journal, after: int
):
    journal.write()
    journal.write(EventKind.COMPLETED)
    assert await _follow(journal, after) == [1, 2]


async def test_follow_when_the_reader_is_slow_then_its_buffer_stays_small(journal: Journal):
    seen: list[int] = []
    async with aclosing(journal.bus.follow(1)) as following:
        journal.write()
        seen.append((await anext(following)).seq)
        for _ in range(10_000):
            journal.write()
        (follower,) = journal.bus.followers(1)
        assert len(follower.events) <= 64
        journal.write(EventKind.COMPLETED)
        seen += [event.seq async for event in following]
    assert seen == list(range(1, 10_003))


async def test_follow_when_published_out_of_order_then_seen_in_order(journal: Journal):
    follower = asyncio.create_task(_follow(journal))
    await _settle()
    pair = [journal.write(publish=False), journal.write(publish=False)]
    for event in reversed(pair):
        journal.bus.publish(event)
    await _settle()
    journal.write(EventKind.COMPLETED)
    assert await follower == [1, 2, 3]


async def test_follow_when_nobody_published_then_the_journal_is_polled(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(events, "POLL_S", 0.01)
    follower = asyncio.create_task(_follow(journal))
    await _settle()
    journal.write(publish=False)
    journal.write(EventKind.COMPLETED, publish=False)
    assert await follower == [1, 2]


async def test_follow_when_written_between_backlog_and_live_then_not_missed(journal: Journal):
    follower = asyncio.create_task(_follow(journal))
    for step in range(300):
        journal.write()
        if step % 3 == 0:
            await asyncio.sleep(0)
    journal.write(EventKind.COMPLETED)
    assert await follower == list(range(1, 302))


async def test_follow_when_the_follower_leaves_then_it_is_removed(journal: Journal):
    journal.write()
    async with aclosing(journal.bus.follow(1)) as following:
        await anext(following)
        assert len(journal.bus.followers(1)) == 1
    assert not journal.bus.followers(1)
    waiting = asyncio.create_task(_follow(journal))
    await _settle()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not journal.bus.followers(1)


async def test_close_when_followed_then_every_follower_ends(journal: Journal):
    journal.write()
    followers = [asyncio.create_task(_follow(journal)) for _ in range(3)]
    await _settle()
    journal.bus.close()
    assert await asyncio.gather(*followers) == [[1], [1], [1]]
    assert await _follow(journal) == []
