"""Databases of older versions: migrated, with nothing lost, and readable by the older again.

`data/schema_NNNN.sql` was written by tests.support.dump_data of the version whose newest migration
is NNNN, while one task ran: the server was killed then.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.config.settings import AuthSettings
from appliance.domain.tasks import (
    EventKind,
    ExecuteEvent,
    Task,
    TaskFailure,
    TaskRequest,
    TaskResult,
    TaskStatus,
)
from appliance.domain.usage import UsageStatus
from appliance.inference.usage.pricing import Prices
from appliance.inference.usage.recorder import StoredUsageRecorder
from appliance.scheduler import TaskContext
from appliance.store.sqlite import migrate
from appliance.store.sqlite.database import Database
from appliance.store.tables import tasks, usage_records
from tests.support.accounts import ADDRESS, PASSWORD, AccountsHarness
from tests.support.dump_data import FILE
from tests.support.task_system import ANSWER, TaskSystem, open_task_system

DATA = Path(__file__).parent / "data"
MIGRATIONS = Path(migrate.__file__).parents[1] / "migrations"
DUMP = (DATA / "schema_0010.sql").read_text("utf-8")
KEY = DUMP.partition("-- key: ")[2].partition("\n")[0]
SCHEMA = "SELECT name, sql FROM sqlite_master WHERE name <> 'schema_migrations' ORDER BY name"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "monkey.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(DUMP)
    return file


async def _find(system: TaskSystem, name: str) -> Task:
    async with system.db.read() as connection:
        task_id = await connection.scalar("SELECT id FROM tasks WHERE public_id = :n", {"n": name})
        task = await tasks.get(connection, task_id)
    assert task
    return task


async def test_tasks_when_of_an_older_version_then_kept_and_the_running_one_goes_on(path: Path):
    seen: dict[str, list[str]] = {}

    async def handler(context: TaskContext) -> TaskResult:
        seen[context.task.public_id] = [event.kind for event in context.history]
        return ANSWER

    async with open_task_system(path, handler) as system:
        for name, attempts in (("running", 2), ("queued", 1)):
            ended = await system.final(await _find(system, name))
            assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, attempts)
        assert seen["running"] == [
            EventKind.ACCEPTED,
            EventKind.STARTED,
            EventKind.PROGRESS,
            ExecuteEvent.CODE,
            EventKind.STARTED,
        ]
        completed, failed = await _find(system, "completed"), await _find(system, "failed")
        request = completed.request_as(TaskRequest)
        assert (completed.result, request.files) == (ANSWER, (FILE,))
        assert request.labels == ("a-repo",)
        details = {"field": "language"}
        assert failed.failure == TaskFailure("VALIDATION_ERROR", "no such language", details)
        assert (await _find(system, "cancelled")).status is TaskStatus.CANCELLED
        assert (await system.kinds(completed))[-1] == EventKind.COMPLETED
        assert (await system.submit(system.alice)).id == 6
        assert await system.db.integrity_check() == []


async def test_accounts_and_usage_when_of_an_older_version_then_they_work(path: Path):
    db = await Database.open(path)
    accounts = AccountsHarness(db, AuthSettings())
    assert (await accounts.log_in("carol")).user.username == "carol"
    assert (await accounts.accounts.authenticate(KEY)).user.username == "carol"
    assert await accounts.accounts.login.log_in("carol@example.com", PASSWORD, ADDRESS)
    recorder = StoredUsageRecorder(db, Prices({}), owner="this-server")
    await recorder.start()
    await recorder.close()
    async with db.read() as connection:
        records = await usage_records.list_for_user(connection, 1, 0.0, 10)
    assert [(r.key, r.status, r.cost, r.task_id) for r in records] == [
        ("record-2", UsageStatus.INTERRUPTED, None, None),
        ("record-1", UsageStatus.COMPLETED, 20.0, None),
    ]
    await db.close()


async def test_schema_when_migrated_then_that_of_a_new_database(path: Path, tmp_path: Path):
    db, new = await Database.open(path), await Database.open(tmp_path / "new.db")
    async with db.read() as migrated, new.read() as fresh:
        assert await migrated.column(SCHEMA) == await fresh.column(SCHEMA)
    await new.close()
    await db.close()


async def test_open_when_a_newer_version_has_served_then_the_older_one_works_again(
    path: Path, tmp_path: Path
):
    folders = {number: tmp_path / number for number in ("0010", "0013")}
    for number, folder in folders.items():
        folder.mkdir()
        for file in MIGRATIONS.glob("*.sql"):
            if file.name[:4] <= number:
                shutil.copy(file, folder)
    for number in ("0013", "0010", "0013"):
        db = await Database.open(path, migrations=folders[number])
        async with db.write() as tx:
            # As the older version did: without what is new.
            await tx.execute(
                "UPDATE tasks SET status = 'queued', started_at = NULL, deadline_at = NULL "
                "WHERE status = 'running'"
            )
            await tx.execute("DELETE FROM task_events WHERE task_id = 5")
            await tx.execute("DELETE FROM tasks WHERE id = 5")
        assert await db.integrity_check() == []
        await db.close()
