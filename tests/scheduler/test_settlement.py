"""Settlement: hooks run in the transaction that ends a task, whatever ends it."""

import asyncio
from pathlib import Path

import pytest

from appliance.domain.tasks import EventKind, Task, TaskRequest, TaskResult, TaskStatus
from appliance.errors import InvalidInput
from appliance.scheduler import TaskContext
from appliance.scheduler.outcome import Cancelled, Completed, End, Failed
from appliance.store.database import Transaction
from appliance.store.tables import tasks
from tests.support.polling import until
from tests.support.task_system import TaskSystem, Work, answer_at_once, open_task_system, settings


class Settlement:
    """A hook that records what it was called with, in the transaction and beside it."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, type[End]]] = []
        self.fails = False

    async def __call__(self, tx: Transaction, task: Task, end: End) -> None:
        self.calls.append((task.id, type(end)))
        await tx.execute("CREATE TABLE IF NOT EXISTS settled (task_id INTEGER PRIMARY KEY)")
        await tx.execute("INSERT INTO settled VALUES (:id)", {"id": task.id})
        if self.fails:
            raise RuntimeError("settlement refused")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monkey.db"


@pytest.fixture
async def settlement() -> Settlement:
    return Settlement()


async def _settled(system: TaskSystem) -> list[int]:
    async with system.db.read() as connection:
        return await connection.column("SELECT task_id FROM settled ORDER BY task_id")


async def _refuse(context: TaskContext) -> TaskResult:
    if context.task.request_as(TaskRequest).prompt == "fail":
        raise InvalidInput("no such thing")
    if context.task.request_as(TaskRequest).prompt == "last":
        await asyncio.Event().wait()
    return await answer_at_once(context)


async def test_hook_when_tasks_end_in_every_way_of_a_worker_then_called_once_for_each(
    path: Path, settlement: Settlement
):
    async with open_task_system(path, _refuse, on_end=[settlement]) as system:
        completed = await system.submit(system.alice)
        failed = await system.submit(system.alice, "fail")
        late = await system.submit(system.alice, "last", timeout_s=0.05)
        await system.final(late)
        running = await system.submit(system.alice, "last")
        queued = await system.submit(system.alice)
        await until(lambda: _is_running(system, running))
        await system.scheduler.cancel(queued.id)
        await system.scheduler.cancel(running.id)
        assert settlement.calls == [
            (completed.id, Completed),
            (failed.id, Failed),
            (late.id, Failed),
            (queued.id, Cancelled),
            (running.id, Cancelled),
        ]
        assert await _settled(system) == sorted(
            task.id for task in (completed, failed, late, running, queued)
        )


async def test_hook_when_the_recovery_gives_up_then_called_with_the_failure(
    path: Path, settlement: Settlement
):
    work = Work()
    async with open_task_system(path, work, owner="died") as system:
        task = await system.submit(system.alice)
        await work.until_started(1)
        async with system.db.write() as tx:
            await tx.execute("UPDATE task_leases SET expires_at = 0")
        async with open_task_system(
            path,
            with_settings=settings(max_attempts=1),
            owner="other",
            exclusive=False,
            on_end=[settlement],
        ) as other:
            assert (await other.final(task)).status is TaskStatus.FAILED
            assert settlement.calls == [(task.id, Failed)]
            assert await _settled(other) == [task.id]


async def test_hook_when_it_fails_then_the_task_has_not_ended_and_both_are_tried_again(
    path: Path, settlement: Settlement
):
    settlement.fails = True
    async with open_task_system(path, on_end=[settlement]) as system:
        task = await system.submit(system.alice)
        await until(lambda: bool(settlement.calls))
        assert (await system.kinds(task))[-1] == EventKind.STARTED
        settlement.fails = False
        assert (await system.final(task)).status is TaskStatus.COMPLETED
        assert await _settled(system) == [task.id]


async def test_task_id_when_the_newest_task_was_deleted_then_it_is_not_used_again(path: Path):
    async with open_task_system(path) as system:
        deleted = await system.submit(system.alice)
        await system.final(deleted)
        await system.service.delete(system.alice, deleted.public_id)
        assert (await system.submit(system.alice)).id > deleted.id


async def _is_running(system: TaskSystem, task: Task) -> bool:
    async with system.db.read() as connection:
        found = await tasks.get(connection, task.id)
    return found is not None and found.status is TaskStatus.RUNNING
