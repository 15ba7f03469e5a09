"""The feed of a user over a real database: resumed anywhere, with slow readers, over restarts."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from appliance import events
from appliance.domain.tasks import EventKind, Task
from appliance.domain.user_events import UserEvent
from appliance.domain.users import Principal, Scope
from appliance.errors import Forbidden
from appliance.store.tables import task_events
from tests.support.task_system import TaskSystem, limited, open_task_system

DEADLINE_S = 60


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[TaskSystem]:
    async with open_task_system(tmp_path / "db", start=False) as opened:
        yield opened


async def write(system: TaskSystem, task: Task, *, publish: bool = True) -> int:
    """Append an event to the task's journal; returns its number in the user's feed."""
    async with system.db.write() as tx:
        event = await task_events.append(tx, task, EventKind.PROGRESS, {}, 0.0)
    if publish:
        system.bus.publish(event)
    return event.seq


async def read(
    system: TaskSystem, after: int | None, up_to: int, principal: Principal | None = None
) -> list[int]:
    """The numbers of the events after `after`, read until `up_to` of them are seen."""
    seen: list[int] = []
    feed = await system.service.open_feed(principal or system.alice, after)
    async with asyncio.timeout(DEADLINE_S), aclosing(feed.events) as following:
        async for event in following:
            seen.append(event.seq)
            if len(seen) == up_to:
                return seen
    return seen


@pytest.mark.parametrize("seed", range(3))
async def test_feed_when_cut_at_random_points_then_each_event_is_seen_once_in_order(
    seed: int, system: TaskSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_S", 0.01)  # some events are those of another process
    chance = random.Random(seed)
    tasks = [await system.submit(system.alice) for _ in range(3)]
    foreign = await system.submit(system.bob)

    async def write_all() -> None:
        for _ in range(150):
            await write(system, chance.choice(tasks), publish=chance.random() < 0.8)
            if chance.random() < 0.3:
                await write(system, foreign)

    writer = asyncio.create_task(write_all())
    seen: list[int] = []
    while len(seen) < 153:
        after = seen[-1] if seen else 0
        seen += await read(system, after, min(chance.randint(1, 60), 153 - len(seen)))
    await writer
    assert seen == list(range(1, 154))


async def test_feed_when_one_of_two_hundred_followers_is_slow_then_the_others_are_not_held(
    system: TaskSystem,
) -> None:
    task = await system.submit(system.alice)
    slow = (await system.service.open_feed(system.alice, 0)).events
    assert (await anext(slow)).seq == 1
    quick = [asyncio.create_task(read(system, 0, 151)) for _ in range(199)]
    for _ in range(150):
        await write(system, task)
    expected = list(range(1, 152))
    assert await asyncio.gather(*quick) == [expected] * 199
    (follower,) = system.bus.user_followers(system.alice.user.id)
    assert len(follower.events) <= 64
    assert [(await anext(slow)).seq for _ in range(150)] == expected[1:]
    await slow.aclose()
    assert not system.bus.user_followers(system.alice.user.id)


async def test_feed_when_a_task_is_deleted_then_its_events_are_skipped_and_no_number_is_reused(
    system: TaskSystem,
) -> None:
    first, last = [await system.submit(system.alice) for _ in range(2)]
    for task in (first, last):
        await system.scheduler.cancel(task.id)
    assert await read(system, 0, 4) == [1, 2, 3, 4]
    await system.service.delete(system.alice, last.public_id)
    assert await read(system, 0, 3) == [1, 3, 5]
    feed = await system.service.open_feed(system.alice, 4)
    deleted: UserEvent = await anext(feed.events)
    assert (deleted.seq, deleted.kind, deleted.task_public_id) == (5, "task_deleted", None)
    assert deleted.data == {"task_id": last.public_id}


async def test_feed_when_opened_without_a_position_then_it_starts_after_the_newest_event(
    system: TaskSystem,
) -> None:
    task = await system.submit(system.alice)
    feed = await system.service.open_feed(system.alice, None)
    assert feed.start == 1
    assert await write(system, task) == 2
    assert (await anext(feed.events)).seq == 2


async def test_feed_when_the_position_is_of_another_feed_then_from_the_start(
    system: TaskSystem,
) -> None:
    await system.submit(system.alice)
    assert await read(system, 10**15, 1) == [1]


async def test_feed_when_the_principal_may_not_read_tasks_then_forbidden(
    system: TaskSystem,
) -> None:
    with pytest.raises(Forbidden):
        await system.service.open_feed(limited(system.alice, Scope.TASKS_WRITE), None)


async def test_feed_when_the_server_shuts_down_then_it_ends(system: TaskSystem) -> None:
    await system.submit(system.alice)
    follower = asyncio.create_task(read(system, 0, 2))
    while not system.bus.user_followers(system.alice.user.id):
        await asyncio.sleep(0)
    system.bus.close()
    assert await follower in ([], [1])
