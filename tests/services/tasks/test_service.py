import asyncio
import base64
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.tasks import (
    EventKind,
    ExecuteEvent,
    Priority,
    SourceFile,
    TaskResult,
    TaskStatus,
)
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
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, Work, limited, open_task_system, settings


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[TaskSystem, None]:
    """Nothing runs here: tasks stay queued."""
    async with open_task_system(tmp_path / "appliance.db", start=False) as opened:
        yield opened


async def test_submit_when_accepted_then_queued_under_a_generated_id(system: TaskSystem):
    task = await system.submit(system.alice, priority=Priority.INTERACTIVE)
    assert (task.status, task.user_id) == (TaskStatus.QUEUED, system.alice.user.id)
    assert task.public_id.startswith("task_")
    assert len(task.public_id) == 29
    assert await system.service.get(system.alice, task.public_id) == task
    assert await system.kinds(task) == [EventKind.ACCEPTED]


async def test_submit_when_the_scope_is_missing_then_forbidden(system: TaskSystem):
    with pytest.raises(Forbidden, match="viewer"):
        await system.submit(system.viewer)
    with pytest.raises(Forbidden, match="tasks:write"):
        await system.submit(limited(system.alice, Scope.TASKS_READ))
    task = await system.submit(limited(system.alice, Scope.TASKS_WRITE))
    with pytest.raises(Forbidden, match="tasks:read"):
        await system.service.get(limited(system.alice, Scope.TASKS_WRITE), task.public_id)
    with pytest.raises(Forbidden, match="tasks:write"):
        await system.service.cancel(limited(system.alice, Scope.TASKS_READ), task.public_id)


async def test_submit_when_repeated_then_the_same_task(system: TaskSystem):
    files = (SourceFile("a.py", "x"),)
    first = await system.submit(
        system.alice, client_task_id="mine", files=files, context={"a": 1, "b": 2}
    )
    again = await system.submit(
        system.alice, client_task_id="mine", files=files, context={"b": 2, "a": 1}
    )
    assert again == first
    assert first.public_id == "mine"
    assert await system.kinds(first) == [EventKind.ACCEPTED]


async def test_submit_when_the_id_is_used_for_something_else_then_conflict(system: TaskSystem):
    await system.submit(system.alice, client_task_id="mine")
    with pytest.raises(Conflict) as caught:
        await system.submit(system.alice, "another prompt", client_task_id="mine")
    with pytest.raises(Conflict):
        await system.submit(system.alice, client_task_id="mine", labels=("secret",))
    assert caught.value.details == {"task_id": "mine"}
    other = await system.submit(system.bob, "another prompt", client_task_id="mine")
    assert other.user_id == system.bob.user.id


async def test_submit_when_fifty_at_once_with_one_id_then_one_task(system: TaskSystem):
    made = await asyncio.gather(
        *(system.submit(system.alice, client_task_id="one") for _ in range(50))
    )
    assert len({task.id for task in made}) == 1
    assert (await system.service.get_queue_stats()).queued == 1


async def test_submit_when_the_queue_is_full_then_error_has_its_length(tmp_path: Path):
    limits = settings(queue_limit=3)
    async with open_task_system(
        tmp_path / "appliance.db", with_settings=limits, start=False
    ) as system:
        ends = await asyncio.gather(
            *(system.submit(system.alice, client_task_id=f"t{at}") for at in range(10)),
            return_exceptions=True,
        )
        refused = [end for end in ends if isinstance(end, QueueFull)]
        assert len(refused) == 7
        assert refused[0].details == {"queue_length": 3, "queue_limit": 3}
        assert refused[0].retry_after
        known = await system.submit(system.alice, client_task_id="t0")
        assert known.public_id == "t0"


async def test_submit_when_one_user_fills_their_part_of_the_queue_then_others_still_get_in(
    tmp_path: Path,
):
    limits = settings(queue_limit=5, queue_limit_per_user=2)
    async with open_task_system(
        tmp_path / "appliance.db", with_settings=limits, start=False
    ) as system:
        for at in range(2):
            await system.submit(system.alice, client_task_id=f"t{at}")
        with pytest.raises(QueueFull, match=r"your part .* is full \(2 of 2\)") as caught:
            await system.submit(system.alice, client_task_id="t2")
        assert caught.value.details == {"queue_length": 2, "queue_limit": 2}
        assert caught.value.retry_after
        assert (await system.submit(system.alice, client_task_id="t1")).public_id == "t1"
        await system.submit(system.bob)
        assert (await system.service.get_queue_stats()).queued == 3


async def test_submit_when_the_caller_goes_away_then_all_or_nothing(system: TaskSystem):
    for steps in range(0, 60, 2):
        name = f"gone{steps}"
        submitting = asyncio.create_task(system.submit(system.alice, client_task_id=name))
        for _ in range(steps):
            await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.wait({submitting})
        try:
            task = await system.service.get(system.alice, name)
        except NotFound:
            continue
        assert await system.kinds(task) == [EventKind.ACCEPTED]


async def test_get_when_it_is_another_user_s_then_not_found_but_for_an_admin(system: TaskSystem):
    task = await system.submit(system.alice, client_task_id="shared")
    for name in (task.public_id, "task_nothing", "", "a\0b", "\ud800", "x" * 10_000, "../x"):
        with pytest.raises(NotFound):
            await system.service.get(system.bob, name)
        with pytest.raises(NotFound):
            await system.service.cancel(system.bob, name)
    assert await system.service.get(system.admin, "shared") == task
    own = await system.submit(system.admin, client_task_id="shared")
    assert await system.service.get(system.admin, "shared") == own


async def test_list_when_paged_then_own_tasks_newest_first_without_gap(system: TaskSystem):
    made = [await system.submit(system.alice, f"p{at}") for at in range(7)]
    await system.submit(system.bob)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await system.service.list(system.alice, limit=3, cursor=cursor)
        seen += [task.public_id for task in page.tasks]
        cursor = page.next_cursor
        if cursor is None:
            break
        await system.submit(system.alice, "meanwhile")
    assert seen == [task.public_id for task in reversed(made)]


async def test_list_when_filtered_then_only_that_status(system: TaskSystem):
    first, _ = await system.submit(system.alice), await system.submit(system.alice)
    await system.service.cancel(system.alice, first.public_id)
    page = await system.service.list(system.alice, status=TaskStatus.CANCELLED)
    assert [task.id for task in page.tasks] == [first.id]
    assert page.next_cursor is None
    empty = await system.service.list(system.alice, status=TaskStatus.FAILED)
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
async def test_list_when_a_parameter_is_invalid_then_error_names_it(
    system: TaskSystem, field: str, arguments: dict[str, Any]
):
    with pytest.raises(InvalidInput) as caught:
        await system.service.list(system.alice, **arguments)
    assert caught.value.details["field"] == field


async def test_cancel_when_by_the_owner_or_an_admin_then_cancelled(system: TaskSystem):
    for who, owner in ((system.alice, None), (system.admin, "alice")):
        name = (await system.submit(system.alice)).public_id
        cancelled = await system.service.cancel(who, name, owner)
        assert cancelled.status is TaskStatus.CANCELLED
        with pytest.raises(TaskNotCancellable):
            await system.service.cancel(who, name, owner)


async def test_wait_when_the_task_takes_longer_then_deadline_and_the_task_goes_on(tmp_path: Path):
    work = Work()
    async with open_task_system(tmp_path / "appliance.db", work) as system:
        task = await system.submit(system.alice)
        with pytest.raises(DeadlineExceeded):
            await system.service.wait(system.alice, task.public_id, 0.02)
        waiting = [
            asyncio.create_task(system.service.wait(system.alice, task.public_id, 20))
            for _ in range(5)
        ]
        await work.until_started(1)
        work.go.set()
        for ended in await asyncio.gather(*waiting):
            assert (ended.status, ended.result) == (TaskStatus.COMPLETED, ANSWER)
        again = await system.service.wait(system.alice, task.public_id, 0.001)
        assert again.status is TaskStatus.COMPLETED


async def test_events_when_it_is_another_user_s_task_then_not_found(system: TaskSystem):
    task = await system.submit(system.alice)
    with pytest.raises(NotFound):
        await anext(system.service.events(system.bob, task.public_id))


async def test_events_when_two_hundred_follow_and_reconnect_then_each_event_once(tmp_path: Path):
    steps = 30
    started = asyncio.Event()

    async def handler(context: TaskContext) -> TaskResult:
        await started.wait()
        for step in range(steps):
            await context.emit(ExecuteEvent.TEXT, {"content": f"{step} "})
        return ANSWER

    async def follow(system: TaskSystem, public_id: str, breaks: int) -> list[int]:
        chance = random.Random(breaks)
        seen: list[int] = []
        for _ in range(breaks):
            async with aclosing(
                system.service.events(system.alice, public_id, seen[-1] if seen else 0)
            ) as events:
                async for event in events:
                    seen.append(event.seq)
                    if chance.random() < 0.2:
                        break
        after = seen[-1] if seen else 0
        return seen + [
            event.seq async for event in system.service.events(system.alice, public_id, after)
        ]

    async with open_task_system(tmp_path / "appliance.db", handler) as system:
        task = await system.submit(system.alice)
        followers = [
            asyncio.create_task(follow(system, task.public_id, number % 4)) for number in range(200)
        ]
        await until(lambda: len(system.bus.followers(task.id)) == len(followers))
        started.set()
        expected = list(range(1, steps + 4))
        for seen in await asyncio.gather(*followers):
            assert seen == expected
