"""Leases: two servers on one database run no task twice and take over what is abandoned."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.domain.tasks import EventKind, Task, TaskRequest, TaskStatus
from appliance.scheduler import server_id
from appliance.store.tables import tasks
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, Work, open_task_system, settings

CLAIMS = 240


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monkey.db"


@pytest.fixture
async def work() -> Work:
    return Work()


@pytest.fixture
async def system(
    path: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[TaskSystem, None]:
    """A server that renews its leases often."""
    monkeypatch.setattr("appliance.scheduler.leases.INTERVAL_S", 0.02)
    async with open_task_system(path, work, settings(max_attempts=1000)) as opened:
        yield opened


@pytest.fixture
async def other(path: Path, system: TaskSystem) -> AsyncGenerator[TaskSystem, None]:
    """Another server on the same database, not started."""
    async with open_task_system(path, owner="other", exclusive=False, start=False) as opened:
        yield opened


async def _stored(system: TaskSystem, task: Task) -> Task:
    async with system.db.read() as connection:
        found = await tasks.get(connection, task.id)
    assert found
    return found


async def _refuse_renewals(system: TaskSystem) -> None:
    async with system.db.write() as tx:
        await tx.execute(
            "CREATE TEMP TRIGGER refused BEFORE UPDATE ON task_leases "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


async def _expire_leases(system: TaskSystem) -> None:
    async with system.db.write() as tx:
        await tx.execute("UPDATE task_leases SET expires_at = 0")


async def _start_worker(path: Path, owner: str) -> asyncio.subprocess.Process:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.worker_process", str(path), owner),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout
    assert await child.stdout.readline() == b"ready\n"
    return child


async def test_claim_when_two_processes_share_a_database_then_no_task_starts_twice(path: Path):
    names = {f"t{number}" for number in range(CLAIMS)}
    async with open_task_system(path, start=False) as system, system.db.write() as tx:
        for name in names:
            new = tasks.prepare(name, system.alice.user.id, TaskRequest(name), "hash", "monkey")
            await tasks.insert(tx, new, await tx.now())
    children = [await _start_worker(path, owner) for owner in ("a", "b")]
    outputs = await asyncio.gather(*(child.communicate(b"begin\n") for child in children))
    started = [line for output, _ in outputs for line in output.decode().splitlines()]
    assert len(started) == CLAIMS
    assert set(started) == names
    async with open_task_system(path, start=False) as system, system.db.read() as connection:
        ends = await connection.column("SELECT status || attempt FROM tasks")
        assert ends == ["completed1"] * CLAIMS
        assert await connection.scalar("SELECT COUNT(*) FROM task_leases") == 0


async def test_start_when_another_server_runs_a_task_then_it_is_left_alone(
    system: TaskSystem, other: TaskSystem, work: Work
):
    task = await system.submit(system.alice)
    await work.until_started(1)
    await other.scheduler.start()
    assert (await _stored(other, task)).status is TaskStatus.RUNNING
    work.go.set()
    ended = await system.final(task)
    assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 1)


async def test_lease_when_expired_then_another_server_takes_over_and_the_first_writes_nothing(
    system: TaskSystem, other: TaskSystem, work: Work
):
    task = await system.submit(system.alice)
    await work.until_started(1)
    await _refuse_renewals(system)
    await _expire_leases(other)
    await other.scheduler.start()
    ended = await other.final(task)
    assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 2)
    work.go.set()
    await system.scheduler.drain(20)
    assert await _stored(system, task) == ended
    kinds = await system.kinds(task)
    assert kinds.count(EventKind.STARTED) == 2
    assert kinds.count(EventKind.COMPLETED) == 1


async def test_cancel_when_another_server_runs_the_task_then_that_one_stops_it(
    system: TaskSystem, other: TaskSystem, work: Work
):
    task = await system.submit(system.alice)
    await work.until_started(1)
    assert (await other.scheduler.cancel(task.id)).status is TaskStatus.CANCELLED
    await until(lambda: work.cancelled == [task.public_id])
    assert await system.kinds(task) == [
        EventKind.ACCEPTED,
        EventKind.STARTED,
        EventKind.CANCELLED,
    ]


async def test_lease_when_it_cannot_be_renewed_then_the_attempt_stops_and_is_repeated_later(
    system: TaskSystem, work: Work, monkeypatch: pytest.MonkeyPatch
):
    await _refuse_renewals(system)
    monkeypatch.setattr("appliance.scheduler.attempt.FENCE_S", 0.2)
    task = await system.submit(system.alice)
    await until(lambda: task.public_id in work.cancelled)
    assert (await system.kinds(task))[-1] == EventKind.STARTED
    monkeypatch.setattr("appliance.scheduler.attempt.FENCE_S", 20.0)
    async with system.db.write() as tx:
        await tx.execute("DROP TRIGGER refused")
    work.go.set()
    ended = await system.final(task)
    assert (ended.status, ended.result) == (TaskStatus.COMPLETED, ANSWER)
    assert ended.attempt == len(work.started) > 1


async def test_drain_when_a_task_is_postponed_then_its_lease_is_given_back(path: Path, work: Work):
    async with open_task_system(path, work) as system:
        task = await system.submit(system.alice)
        await work.until_started(1)
        await system.scheduler.drain(0)
    async with open_task_system(path, owner="other") as system:
        assert (await system.final(task)).attempt == 2


def test_server_id_when_loaded_again_then_the_same_and_when_damaged_then_new(tmp_path: Path):
    first = server_id.load_or_create(tmp_path)
    assert server_id.load_or_create(tmp_path) == first
    (tmp_path / "server-id").write_text("half")
    assert server_id.load_or_create(tmp_path) != first
