"""Shutdown and crash: what becomes of running tasks, and of an end that cannot be written."""

import asyncio
from pathlib import Path

import pytest

from appliance.domain.tasks import EventKind, ExecuteEvent, Task, TaskResult, TaskStatus
from appliance.scheduler import TaskContext
from appliance.store.tables import tasks
from tests.support.polling import until
from tests.support.task_system import (
    ANSWER,
    TaskSystem,
    Work,
    answer_at_once,
    open_task_system,
    settings,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monkey.db"


@pytest.fixture
async def work() -> Work:
    return Work()


async def _stored(system: TaskSystem, task: Task) -> Task:
    async with system.db.read() as connection:
        found = await tasks.get(connection, task.id)
    assert found
    return found


async def test_drain_when_tasks_end_in_time_then_all_complete(path: Path, work: Work):
    async with open_task_system(path, work, settings(workers=2)) as system:
        made = [await system.submit(system.alice) for _ in range(3)]
        await work.until_started(2)
        draining = asyncio.create_task(system.scheduler.drain(20))
        await asyncio.sleep(0)  # from its first step on it claims no more tasks
        work.go.set()
        await draining
        statuses = [(await _stored(system, task)).status for task in made]
        assert statuses == [TaskStatus.COMPLETED, TaskStatus.COMPLETED, TaskStatus.QUEUED]


async def test_drain_when_tasks_last_then_they_run_again_after_the_next_start(path: Path):
    work = Work()
    async with open_task_system(path, work, settings(max_attempts=1)) as system:
        task = await system.submit(system.alice)
        await work.until_started(1)
        await system.scheduler.drain(0.01)
        stored = await _stored(system, task)
        assert (stored.status, stored.attempt, stored.started_at) == (TaskStatus.QUEUED, 1, None)
        assert work.cancelled == [task.public_id]
    async with open_task_system(path, answer_at_once, settings(max_attempts=1)) as system:
        ended = await system.final(task)
        assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 2)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that soon stops retrying writes that the store refuses."""
    monkeypatch.setattr("appliance.scheduler.scheduler.STOP_WAIT_S", 0.05)
    monkeypatch.setattr("appliance.scheduler.scheduler.SETTLE_WAIT_S", 0.05)


async def _start_and_abandon(path: Path, step: str = EventKind.PROGRESS, **scheduler: int) -> None:
    """A server that dies, for the store, while its task runs and has written a step."""
    work = Work()

    async def handler(context: TaskContext) -> TaskResult:
        await context.emit(step, {})
        return await work(context)

    async with open_task_system(path, handler, settings(**scheduler)) as system:
        await until(lambda: bool(work.started))
        async with system.db.write() as tx:
            await tx.execute(
                "CREATE TEMP TRIGGER dead BEFORE UPDATE ON tasks WHEN OLD.status = 'running' "
                "BEGIN SELECT RAISE(ABORT, 'dead'); END"
            )


@pytest.mark.usefixtures("short_waits")
async def test_start_when_a_task_was_interrupted_then_it_goes_on_with_its_history(path: Path):
    async with open_task_system(path, start=False) as system:
        task = await system.submit(system.alice)
    await _start_and_abandon(path)
    seen: list[str] = []

    async def handler(context: TaskContext) -> TaskResult:
        seen.extend(event.kind for event in context.history)
        return ANSWER

    async with open_task_system(path, handler) as system:
        ended = await system.final(task)
    assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 2)
    assert seen == [
        EventKind.ACCEPTED,
        EventKind.STARTED,
        EventKind.PROGRESS,
        EventKind.STARTED,
    ]


@pytest.mark.usefixtures("short_waits")
async def test_start_when_a_task_was_interrupted_too_often_then_it_fails_with_the_reason(
    path: Path,
):
    async with open_task_system(path, start=False) as system:
        task = await system.submit(system.alice)
    await _start_and_abandon(path, max_attempts=2)
    await _start_and_abandon(path, max_attempts=2)
    async with open_task_system(path, with_settings=settings(max_attempts=2)) as system:
        ended = await system.final(task)
        assert ended.failure
        assert (ended.failure.code, ended.attempt) == ("INTERNAL_ERROR", 2)
        assert "ended unexpectedly 2 times" in ended.failure.message
        assert (await system.kinds(task))[-1] == EventKind.FAILED


@pytest.mark.usefixtures("short_waits")
async def test_start_when_each_interrupted_attempt_got_a_step_further_then_it_goes_on(path: Path):
    async with open_task_system(path, start=False) as system:
        task = await system.submit(system.alice)
    for _ in range(3):
        await _start_and_abandon(path, step=ExecuteEvent.CANDIDATE, max_attempts=2)
    async with open_task_system(path, with_settings=settings(max_attempts=2)) as system:
        ended = await system.final(task)
    assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 4)


async def test_end_when_the_disk_is_full_for_a_while_then_the_answer_is_not_lost(path: Path):
    work = Work()
    async with open_task_system(path, work) as system:
        task = await system.submit(system.alice)
        await work.until_started(1)
        async with system.db.write() as tx:
            await tx.execute(
                "CREATE TEMP TRIGGER full BEFORE UPDATE ON tasks "
                "BEGIN SELECT RAISE(ABORT, 'as if full'); END"
            )
        work.go.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await system.final(task)
        async with system.db.write() as tx:
            await tx.execute("DROP TRIGGER full")
        assert (await system.final(task)).result == ANSWER
