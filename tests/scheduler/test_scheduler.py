"""The scheduler: outcomes of attempts, workers, cancellation and load."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from appliance.domain.tasks import EventKind, Task, TaskKind, TaskResult, TaskStatus
from appliance.errors import (
    Conflict,
    NotFound,
    SandboxUnavailable,
    TaskNotCancellable,
    Unavailable,
)
from appliance.scheduler import RunTask, TaskContext, attempt
from appliance.store.tables import tasks
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, Work, open_task_system, settings


@pytest.fixture
async def work() -> Work:
    return Work()


@pytest.fixture
async def system(tmp_path: Path, work: Work) -> AsyncGenerator[TaskSystem, None]:
    async with open_task_system(tmp_path / "monkey.db", work) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monkey.db"


async def _stored(system: TaskSystem, task: Task) -> Task:
    async with system.db.read() as connection:
        found = await tasks.get(connection, task.id)
    assert found
    return found


async def test_task_when_the_handler_returns_then_completed_with_its_journal(path: Path):
    async def handler(context: TaskContext) -> TaskResult:
        await context.emit(EventKind.PROGRESS, {"message": "thinking"})
        assert context.remaining_s() > 0
        return ANSWER

    async with open_task_system(path, handler) as system:
        task = await system.submit(system.alice)
        ended = await system.final(task)
        assert (ended.status, ended.result, ended.attempt) == (TaskStatus.COMPLETED, ANSWER, 1)
        assert await system.kinds(task) == [
            EventKind.ACCEPTED,
            EventKind.STARTED,
            EventKind.PROGRESS,
            EventKind.COMPLETED,
        ]


async def test_task_when_the_handler_raises_of_the_tree_then_failed_with_that(path: Path):
    async def handler(context: TaskContext) -> TaskResult:
        raise SandboxUnavailable("no \ud800 confinement", details={"layer": "bwrap"})

    async with open_task_system(path, handler) as system:
        task = await system.submit(system.alice)
        failure = (await system.final(task)).failure
        assert failure
        assert (failure.code, failure.message) == ("SANDBOX_UNAVAILABLE", "no ? confinement")
        assert failure.details == {"layer": "bwrap"}
        last = (await system.journal(task))[-1]
        assert (last.kind, last.data["code"]) == (EventKind.FAILED, "SANDBOX_UNAVAILABLE")


async def _broken(context: TaskContext) -> TaskResult:
    raise RuntimeError("/secret/path")


async def _wrong_type(context: TaskContext) -> TaskResult:
    return cast("TaskResult", "text")


async def _cannot_be_read_again(context: TaskContext) -> TaskResult:
    return msgspec.structs.replace(ANSWER, generation_s="long")


async def _half_a_character(context: TaskContext) -> TaskResult:
    return msgspec.structs.replace(ANSWER, text="\ud800")


async def _cancels_itself(context: TaskContext) -> TaskResult:
    raise asyncio.CancelledError


async def _final_by_itself(context: TaskContext) -> TaskResult:
    await context.emit(EventKind.COMPLETED, {})
    return ANSWER


@pytest.mark.parametrize(
    "handler",
    [
        _broken,
        _wrong_type,
        _cannot_be_read_again,
        _half_a_character,
        _cancels_itself,
        _final_by_itself,
    ],
)
async def test_task_when_the_handler_breaks_then_internal_error_without_its_text(
    path: Path, handler: RunTask
):
    async with open_task_system(path, handler) as system:
        task = await system.submit(system.alice)
        failure = (await system.final(task)).failure
        assert failure
        assert failure.code == "INTERNAL_ERROR"
        assert "secret" not in failure.message
        assert (await system.kinds(task))[-1] == EventKind.FAILED


async def test_task_when_its_deadline_passes_then_failed_and_the_worker_is_free(
    system: TaskSystem, work: Work
):
    task = await system.submit(system.alice, timeout_s=0.05)
    failure = (await system.final(task)).failure
    assert failure
    assert (failure.code, failure.details) == ("DEADLINE_EXCEEDED", {"timeout_s": 0.05})
    assert work.cancelled == [task.public_id]
    work.go.set()
    other = await system.submit(system.alice)
    assert (await system.final(other)).status is TaskStatus.COMPLETED


async def test_task_when_the_handler_ignores_the_deadline_then_its_end_is_written_anyway(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attempt, "STOP_WAIT_S", 0.05)
    late: list[str] = []

    async def deaf(context: TaskContext) -> TaskResult:
        while not late:
            try:
                await asyncio.sleep(0.3)
            except asyncio.CancelledError:
                continue
            try:
                await context.emit(EventKind.PROGRESS, {})
            except Conflict as error:
                late.append(error.message)
        return ANSWER

    async with open_task_system(path, deaf) as system:
        task = await system.submit(system.alice, timeout_s=0.05)
        assert (await system.final(task)).status is TaskStatus.FAILED
        await until(lambda: bool(late))
        assert (await system.kinds(task))[-1] == EventKind.FAILED


async def test_workers_when_more_tasks_than_workers_then_never_more_at_once(path: Path):
    running: set[int] = set()
    most = 0
    go = asyncio.Event()

    async def handler(context: TaskContext) -> TaskResult:
        nonlocal most
        running.add(context.task.id)
        most = max(most, len(running))
        await go.wait()
        running.remove(context.task.id)
        return ANSWER

    async with open_task_system(path, handler, settings(workers=3)) as system:
        made = [await system.submit(system.alice) for _ in range(12)]
        await until(lambda: len(running) == 3)
        go.set()
        for task in made:
            await system.final(task)
    assert most == 3


async def test_workers_when_one_user_floods_then_the_other_waits_for_the_running_only(path: Path):
    order: list[int] = []
    go = asyncio.Event()

    async def handler(context: TaskContext) -> TaskResult:
        await go.wait()
        order.append(context.task.user_id)
        return ANSWER

    async with open_task_system(path, handler) as system:
        for _ in range(30):
            await system.submit(system.alice)
        last = await system.submit(system.bob)
        go.set()
        await system.final(last)
        assert order.index(system.bob.user.id) <= 1


async def test_cancel_when_queued_then_cancelled_and_never_started(system: TaskSystem, work: Work):
    first, second = await system.submit(system.alice), await system.submit(system.alice)
    await work.until_started(1)
    cancelled = await system.scheduler.cancel(second.id)
    assert (cancelled.status, cancelled.attempt) == (TaskStatus.CANCELLED, 0)
    assert await system.kinds(second) == [EventKind.ACCEPTED, EventKind.CANCELLED]
    work.go.set()
    await system.final(first)
    assert work.started == [first.public_id]


async def test_cancel_when_running_then_the_handler_ends_first(system: TaskSystem, work: Work):
    task = await system.submit(system.alice)
    await work.until_started(1)
    cancelled = await system.scheduler.cancel(task.id)
    assert cancelled.status is TaskStatus.CANCELLED
    assert work.cancelled == [task.public_id]
    assert await system.kinds(task) == [
        EventKind.ACCEPTED,
        EventKind.STARTED,
        EventKind.CANCELLED,
    ]


async def test_cancel_when_ended_then_not_cancellable(system: TaskSystem, work: Work):
    work.go.set()
    task = await system.submit(system.alice)
    await system.final(task)
    with pytest.raises(TaskNotCancellable, match="completed"):
        await system.scheduler.cancel(task.id)
    with pytest.raises(NotFound):
        await system.scheduler.cancel(99_999)


async def test_cancel_when_twice_at_once_then_it_is_cancelled_once(system: TaskSystem, work: Work):
    task = await system.submit(system.alice)
    await work.until_started(1)
    cancels = (system.scheduler.cancel(task.id) for _ in range(2))
    ends = await asyncio.gather(*cancels, return_exceptions=True)
    seen = [end.status for end in ends if not isinstance(end, BaseException)]
    # The second one may be so late that the task has ended before.
    assert set(seen) == {TaskStatus.CANCELLED}
    assert all(isinstance(end, Task | TaskNotCancellable) for end in ends)
    assert (await system.final(task)).status is TaskStatus.CANCELLED


async def test_cancel_when_racing_with_every_step_then_exactly_one_end(path: Path):
    async def handler(context: TaskContext) -> TaskResult:
        await context.emit(EventKind.PROGRESS, {})
        return ANSWER

    async with open_task_system(path, handler, settings(workers=2)) as system:
        for steps in range(0, 120, 3):
            task = await system.submit(system.alice)
            for _ in range(steps):
                await asyncio.sleep(0)
            try:
                ended = await system.scheduler.cancel(task.id)
                assert ended.status is TaskStatus.CANCELLED
            except TaskNotCancellable:
                ended = await system.final(task)
                assert ended.status is TaskStatus.COMPLETED
            journal = await system.journal(task)
            assert [event for event in journal if event.final] == [journal[-1]]
            assert journal[-1].kind == ended.status


async def test_cancel_when_the_handler_breaks_while_stopping_then_still_cancelled(path: Path):
    started = asyncio.Event()

    async def handler(context: TaskContext) -> TaskResult:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("cleanup failed")
        return ANSWER

    async with open_task_system(path, handler) as system:
        task = await system.submit(system.alice)
        await started.wait()
        assert (await system.scheduler.cancel(task.id)).status is TaskStatus.CANCELLED


async def test_stats_when_nothing_has_ended_then_the_wait_is_unknown(
    system: TaskSystem, work: Work
):
    idle = await system.scheduler.stats(TaskKind.EXECUTE)
    assert (idle.queued, idle.running, idle.oldest_wait_s) == (0, 0, None)
    assert idle.expected_wait_s == 0.0
    made = [await system.submit(system.alice) for _ in range(3)]
    await work.until_started(1)
    busy = await system.scheduler.stats(TaskKind.EXECUTE)
    assert (busy.queued, busy.running, busy.workers) == (2, 1, 1)
    assert busy.oldest_wait_s is not None
    assert busy.expected_wait_s is None
    work.go.set()
    for task in made:
        await system.final(task)
    assert system.scheduler.next_free_worker_s(TaskKind.EXECUTE) is not None


async def test_cancel_when_the_end_cannot_be_written_then_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("appliance.scheduler.scheduler.STOP_WAIT_S", 0.05)
    work = Work()
    async with open_task_system(path, work) as system:
        task = await system.submit(system.alice)
        await work.until_started(1)
        async with system.db.write() as tx:
            await tx.execute(
                "CREATE TEMP TRIGGER full BEFORE UPDATE ON tasks "
                "BEGIN SELECT RAISE(ABORT, 'as if full'); END"
            )
        with pytest.raises(Unavailable, match="still being stopped"):
            await system.scheduler.cancel(task.id)
        async with system.db.write() as tx:
            await tx.execute("DROP TRIGGER full")
        await until(lambda: _is(system, task, TaskStatus.CANCELLED))


async def _is(system: TaskSystem, task: Task, status: TaskStatus) -> bool:
    return (await _stored(system, task)).status is status
