import asyncio
import base64
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.tasks import EventKind, Priority, SourceFile, TaskResult, TaskStatus
from appliance.domain.users import Scope
from appliance.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    QueueFull,
    TaskNotCancellable,
)
from appliance.scheduler import TaskContext
from tests.support.task_box import ANSWER, Box, Work, limited, open_box, settings


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Box, None]:
    """Nothing runs here: tasks stay queued."""
    async with open_box(tmp_path / "box.db", start=False) as opened:
        yield opened


async def test_submit_when_accepted_then_queued_under_an_id_of_the_box(box: Box):
    task = await box.submit(box.alice, priority=Priority.INTERACTIVE)
    assert (task.status, task.user_id) == (TaskStatus.QUEUED, box.alice.user.id)
    assert task.public_id.startswith("task_")
    assert len(task.public_id) == 29
    assert await box.service.get(box.alice, task.public_id) == task
    assert await box.kinds(task) == [EventKind.ACCEPTED]


async def test_submit_when_the_right_is_missing_then_forbidden(box: Box):
    with pytest.raises(Forbidden, match="viewers"):
        await box.submit(box.viewer)
    with pytest.raises(Forbidden, match="tasks:write"):
        await box.submit(limited(box.alice, Scope.TASKS_READ))
    task = await box.submit(limited(box.alice, Scope.TASKS_WRITE))
    with pytest.raises(Forbidden, match="tasks:read"):
        await box.service.get(limited(box.alice, Scope.TASKS_WRITE), task.public_id)
    with pytest.raises(Forbidden, match="tasks:write"):
        await box.service.cancel(limited(box.alice, Scope.TASKS_READ), task.public_id)


async def test_submit_when_repeated_then_the_same_task(box: Box):
    files = (SourceFile("a.py", "x"),)
    first = await box.submit(
        box.alice, client_task_id="mine", files=files, context={"a": 1, "b": 2}
    )
    again = await box.submit(
        box.alice, client_task_id="mine", files=files, context={"b": 2, "a": 1}
    )
    assert again == first
    assert first.public_id == "mine"
    assert await box.kinds(first) == [EventKind.ACCEPTED]


async def test_submit_when_the_id_is_used_for_something_else_then_conflict(box: Box):
    await box.submit(box.alice, client_task_id="mine")
    with pytest.raises(Conflict) as caught:
        await box.submit(box.alice, "another prompt", client_task_id="mine")
    with pytest.raises(Conflict):
        await box.submit(box.alice, client_task_id="mine", labels=("secret",))
    assert caught.value.details == {"task_id": "mine"}
    other = await box.submit(box.bob, "another prompt", client_task_id="mine")
    assert other.user_id == box.bob.user.id


async def test_submit_when_fifty_at_once_with_one_id_then_one_task(box: Box):
    made = await asyncio.gather(*(box.submit(box.alice, client_task_id="one") for _ in range(50)))
    assert len({task.id for task in made}) == 1
    assert (await box.service.queue()).queued == 1


async def test_submit_when_the_queue_is_full_then_said_with_its_length(tmp_path: Path):
    limits = settings(queue_limit=3)
    async with open_box(tmp_path / "box.db", with_settings=limits, start=False) as box:
        ends = await asyncio.gather(
            *(box.submit(box.alice, client_task_id=f"t{at}") for at in range(10)),
            return_exceptions=True,
        )
        refused = [end for end in ends if isinstance(end, QueueFull)]
        assert len(refused) == 7
        assert refused[0].details == {"queue_length": 3, "queue_limit": 3}
        assert refused[0].retry_after
        known = await box.submit(box.alice, client_task_id="t0")
        assert known.public_id == "t0"


async def test_submit_when_one_user_fills_their_part_of_the_queue_then_others_still_get_in(
    tmp_path: Path,
):
    limits = settings(queue_limit=5, queue_limit_per_user=2)
    async with open_box(tmp_path / "box.db", with_settings=limits, start=False) as box:
        for at in range(2):
            await box.submit(box.alice, client_task_id=f"t{at}")
        with pytest.raises(QueueFull, match="2 of your tasks wait already") as caught:
            await box.submit(box.alice, client_task_id="t2")
        assert caught.value.details == {"queue_length": 2, "queue_limit": 2}
        assert caught.value.retry_after
        assert (await box.submit(box.alice, client_task_id="t1")).public_id == "t1"
        await box.submit(box.bob)
        assert (await box.service.queue()).queued == 3


async def test_submit_when_the_caller_goes_away_then_all_or_nothing(box: Box):
    for steps in range(0, 60, 2):
        name = f"gone{steps}"
        submitting = asyncio.create_task(box.submit(box.alice, client_task_id=name))
        for _ in range(steps):
            await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.wait({submitting})
        try:
            task = await box.service.get(box.alice, name)
        except NotFound:
            continue
        assert await box.kinds(task) == [EventKind.ACCEPTED]


async def test_get_when_it_is_another_user_s_then_not_found_but_for_an_admin(box: Box):
    task = await box.submit(box.alice, client_task_id="shared")
    for name in (task.public_id, "task_nothing", "", "a\0b", "\ud800", "x" * 10_000, "../x"):
        with pytest.raises(NotFound):
            await box.service.get(box.bob, name)
        with pytest.raises(NotFound):
            await box.service.cancel(box.bob, name)
    assert await box.service.get(box.admin, "shared") == task
    own = await box.submit(box.admin, client_task_id="shared")
    assert await box.service.get(box.admin, "shared") == own


async def test_list_when_paged_then_own_tasks_newest_first_without_gap(box: Box):
    made = [await box.submit(box.alice, f"p{at}") for at in range(7)]
    await box.submit(box.bob)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await box.service.list(box.alice, limit=3, cursor=cursor)
        seen += [task.public_id for task in page.tasks]
        cursor = page.next_cursor
        if cursor is None:
            break
        await box.submit(box.alice, "meanwhile")
    assert seen == [task.public_id for task in reversed(made)]


async def test_list_when_filtered_then_only_that_status(box: Box):
    first, _ = await box.submit(box.alice), await box.submit(box.alice)
    await box.service.cancel(box.alice, first.public_id)
    page = await box.service.list(box.alice, status=TaskStatus.CANCELLED)
    assert [task.id for task in page.tasks] == [first.id]
    assert page.next_cursor is None
    empty = await box.service.list(box.alice, status=TaskStatus.FAILED)
    assert empty.tasks == ()


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("limit", {"limit": 0}),
        ("limit", {"limit": 101}),
        ("cursor", {"cursor": ""}),
        ("cursor", {"cursor": "nonsense"}),
        ("cursor", {"cursor": "ü" * 11}),
        ("cursor", {"cursor": "A" * 100_000}),
        ("cursor", {"cursor": base64.b64encode(b"\xff" * 8).decode()}),
    ],
)
async def test_list_when_asked_wrongly_then_the_field_is_named(
    box: Box, field: str, arguments: dict[str, Any]
):
    with pytest.raises(InvalidInput) as caught:
        await box.service.list(box.alice, **arguments)
    assert caught.value.details["field"] == field


async def test_cancel_when_by_the_owner_or_an_admin_then_cancelled(box: Box):
    for who in (box.alice, box.admin):
        task = await box.submit(box.alice)
        assert (await box.service.cancel(who, task.public_id)).status is TaskStatus.CANCELLED
        with pytest.raises(TaskNotCancellable):
            await box.service.cancel(who, task.public_id)


async def test_wait_when_the_task_takes_longer_then_deadline_and_the_task_goes_on(tmp_path: Path):
    work = Work()
    async with open_box(tmp_path / "box.db", work) as box:
        task = await box.submit(box.alice)
        with pytest.raises(DeadlineExceeded):
            await box.service.wait(box.alice, task.public_id, 0.02)
        waiting = [
            asyncio.create_task(box.service.wait(box.alice, task.public_id, 20)) for _ in range(5)
        ]
        await work.until_started(1)
        work.go.set()
        for ended in await asyncio.gather(*waiting):
            assert (ended.status, ended.result) == (TaskStatus.COMPLETED, ANSWER)
        again = await box.service.wait(box.alice, task.public_id, 0.001)
        assert again.status is TaskStatus.COMPLETED


async def test_events_when_it_is_another_user_s_task_then_not_found(box: Box):
    task = await box.submit(box.alice)
    with pytest.raises(NotFound):
        await anext(box.service.events(box.bob, task.public_id))


async def test_events_when_two_hundred_follow_and_reconnect_then_each_event_once(tmp_path: Path):
    steps = 30
    started = asyncio.Event()

    async def handler(context: TaskContext) -> TaskResult:
        await started.wait()
        for step in range(steps):
            await context.emit(EventKind.TEXT, {"content": f"{step} "})
        return ANSWER

    async def follow(box: Box, public_id: str, breaks: int) -> list[int]:
        chance = random.Random(breaks)
        seen: list[int] = []
        for _ in range(breaks):
            async with aclosing(
                box.service.events(box.alice, public_id, seen[-1] if seen else 0)
            ) as events:
                async for event in events:
                    seen.append(event.seq)
                    if chance.random() < 0.2:
                        break
        after = seen[-1] if seen else 0
        return seen + [event.seq async for event in box.service.events(box.alice, public_id, after)]

    async with open_box(tmp_path / "box.db", handler) as box:
        task = await box.submit(box.alice)
        followers = [
            asyncio.create_task(follow(box, task.public_id, number % 4)) for number in range(200)
        ]
        await asyncio.sleep(0.01)
        started.set()
        expected = list(range(1, steps + 4))
        for seen in await asyncio.gather(*followers):
            assert seen == expected
