"""Retention, deletion and the storage limit of tasks, on a real database (F69)."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.config.settings import DataSettings, LimitSettings, SchedulerSettings, Settings
from appliance.domain.tasks import ExecuteEvent, Task, TaskRequest, TaskResult
from appliance.domain.users import Scope
from appliance.errors import Conflict, Forbidden, InvalidInput, NotFound, PayloadTooLarge
from appliance.scheduler import TaskContext
from appliance.services.tasks.retention import TaskRetention
from appliance.store.sqlite.database import Database
from appliance.store.tables import task_storage
from tests.support.accounts import Clock
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, Work, limited, open_task_system

DAY_S = 86400.0
SETTINGS = Settings(
    scheduler=SchedulerSettings(workers=1), limits=LimitSettings(stored_bytes_per_user=20_000)
)


async def work(context: TaskContext) -> TaskResult:
    if context.task.request_as(TaskRequest).prompt == "fail":
        raise InvalidInput("the prompt is refused")
    await context.emit(ExecuteEvent.TEXT, {"content": "x" * 100})
    return ANSWER


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[TaskSystem, None]:
    async with open_task_system(tmp_path / "db", work, SETTINGS) as system:
        yield system


async def ended(system: TaskSystem, prompt: str = "write it") -> Task:
    return await system.final(await system.submit(system.alice, prompt))


async def exists(system: TaskSystem, task: Task) -> bool:
    try:
        await system.service.get(system.alice, task.public_id)
    except NotFound:
        return False
    return True


async def stored(system: TaskSystem, user_id: int = 1) -> int:
    async with system.db.read() as connection:
        return await task_storage.get_stored_bytes(connection, user_id)


async def count(db: Database, table: str) -> int:
    async with db.read() as connection:
        return int(await connection.scalar(f"SELECT COUNT(*) FROM {table}"))


async def test_retention_when_it_passes_then_failed_tasks_go_first_and_journals_too(
    system: TaskSystem,
) -> None:
    clock = Clock()
    retention = TaskRetention(
        system.db, DataSettings(task_retention_days=90, failed_task_retention_days=7), clock
    )
    done, failed = await ended(system), await ended(system, "fail")
    clock.now = (failed.finished_at or 0) + 7 * DAY_S - 1
    assert await retention.delete_expired() == 0
    clock.advance(2)
    assert await retention.delete_expired() == 1
    assert (await exists(system, done), await exists(system, failed)) == (True, False)
    clock.advance(90 * DAY_S)
    assert await retention.delete_expired() == 1
    assert await count(system.db, "tasks") == await count(system.db, "task_events") == 0
    assert await stored(system) == 0


async def test_retention_when_it_is_zero_or_the_task_has_not_ended_then_kept(
    tmp_path: Path,
) -> None:
    held = Work()
    async with open_task_system(tmp_path / "db", held) as system:
        running = await system.submit(system.alice)
        await held.until_started(1)
        clock = Clock(running.created_at + 10_000 * DAY_S)
        keep = DataSettings(task_retention_days=0, failed_task_retention_days=0)
        assert await TaskRetention(system.db, DataSettings(), clock).delete_expired() == 0
        held.go.set()
        await system.final(running)
        assert await TaskRetention(system.db, keep, clock).delete_expired() == 0
        assert await TaskRetention(system.db, DataSettings(), clock).delete_expired() == 1


async def test_delete_when_ended_then_gone_with_its_journal_and_its_name_is_free(
    system: TaskSystem,
) -> None:
    task = await system.final(await system.submit(system.alice, client_task_id="mine"))
    with pytest.raises(NotFound):
        await system.service.delete(system.bob, "mine")
    with pytest.raises(Forbidden):
        await system.service.delete(limited(system.alice, Scope.TASKS_READ), "mine")
    await system.service.delete(system.alice, "mine")
    assert not await exists(system, task)
    assert await system.journal(task) == []
    with pytest.raises(NotFound):
        await system.service.delete(system.alice, "mine")
    again = await system.submit(system.alice, "another", client_task_id="mine")
    await system.final(again)
    await system.service.delete(system.admin, "mine", "alice")
    assert not await exists(system, again)


async def test_delete_when_the_task_has_not_ended_then_conflict(tmp_path: Path) -> None:
    held = Work()
    async with open_task_system(tmp_path / "db", held) as system:
        running, queued = await system.submit(system.alice), await system.submit(system.alice)
        await held.until_started(1)
        for task, status in ((running, "running"), (queued, "queued")):
            with pytest.raises(Conflict, match="cancel it first") as refused:
                await system.service.delete(system.alice, task.public_id)
            assert refused.value.details == {"status": status}
        await system.service.cancel(system.alice, queued.public_id)
        await system.service.delete(system.alice, queued.public_id)
        held.go.set()


async def test_storage_when_counted_then_what_the_columns_and_the_journal_hold(
    system: TaskSystem,
) -> None:
    await ended(system, "größer ✓")
    await ended(system, "fail")
    async with system.db.read() as connection:
        columns = await connection.scalar(
            "SELECT SUM(LENGTH(CAST(request AS BLOB)) + LENGTH(CAST(sources AS BLOB)) + "
            "LENGTH(CAST(COALESCE(result, failure) AS BLOB))) FROM tasks"
        )
        journal = await connection.scalar("SELECT SUM(LENGTH(CAST(data AS BLOB))) FROM task_events")
    assert await stored(system) == columns + journal


async def test_submit_when_the_storage_is_full_then_too_large_with_the_numbers_until_deleted(
    system: TaskSystem,
) -> None:
    big = await system.final(await system.submit(system.alice, "a" * 15_000))
    before = await stored(system)
    with pytest.raises(PayloadTooLarge, match="delete ended tasks") as refused:
        await system.submit(system.alice, "b" * 15_000)
    size = refused.value.details["size"]
    assert refused.value.details == {
        "field": "storage", "stored": before, "size": size, "limit": 20_000
    }  # fmt: skip
    assert size > 15_000
    assert await stored(system) == before
    assert await system.submit(system.bob, "b" * 15_000)
    await system.service.delete(system.alice, big.public_id)
    assert await system.submit(system.alice, "b" * 15_000)


async def test_space_when_ten_thousand_tasks_are_deleted_then_given_back(
    system: TaskSystem, tmp_path: Path
) -> None:
    for prompt in ("kept", "old"):
        await ended(system, prompt)
    async with system.db.write() as tx:
        await tx.execute(
            """
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number LIMIT 10000)
            INSERT INTO tasks (public_id, user_id, status, priority, created_at, updated_at,
                               finished_at, request_hash, request, sources, result)
            SELECT 'copy' || n, user_id, status, priority, created_at, updated_at, 1.0,
                   request_hash, request, sources, result || hex(randomblob(500))
            FROM tasks, number WHERE tasks.id = 2
            """
        )
    files = [tmp_path / "db", tmp_path / "db-wal"]
    full = sum(file.stat().st_size for file in files)
    retention = TaskRetention(system.db, DataSettings())
    assert await retention.delete_expired() == 10_000
    await system.db.reclaim_space()
    async with system.db.read() as connection:
        assert await connection.scalar("PRAGMA freelist_count") == 0
        left = await connection.scalar("PRAGMA page_count") * 4096
    assert await count(system.db, "tasks") == 2
    assert sum(file.stat().st_size for file in files) <= 1.2 * left < full / 10


async def test_space_when_the_database_is_an_old_one_then_it_still_works(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as old:
        old.execute("CREATE TABLE something (id INTEGER)")
    async with open_task_system(tmp_path / "db", work) as system:
        await system.service.delete(system.alice, (await ended(system)).public_id)
        await system.db.reclaim_space()
        assert await ended(system)


async def test_loop_when_started_then_expired_tasks_are_deleted(
    system: TaskSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.services.tasks.retention._INTERVAL_S", 0.01)
    task = await ended(system)
    retention = TaskRetention(
        system.db, DataSettings(), Clock((task.finished_at or 0) + 91 * DAY_S)
    )
    retention.start()

    async def is_deleted() -> bool:
        return not await exists(system, task)

    await until(is_deleted)
    await retention.close()
