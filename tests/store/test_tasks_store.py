"""The task tables: claims, changes of status, the journal, pages, query plans."""

import re
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from appliance.domain.tasks import (
    EventKind,
    Priority,
    SourceFile,
    Task,
    TaskFailure,
    TaskKind,
    TaskRequest,
    TaskStatus,
)
from appliance.domain.users import Principal
from appliance.store.sqlite.database import Connection, Transaction
from appliance.store.tables import task_events, task_leases, task_queue, task_storage, tasks
from appliance.store.tables.task_queue import ClaimOptions, TaskEnd
from appliance.store.tables.tasks import PageFilter
from tests.support.task_system import ANSWER, TaskSystem, open_task_system

AGEING_S = 30.0
NOW = 1_000_000.0
OPTIONS = ClaimOptions("a-server", 30.0, AGEING_S, 600.0)
COMPLETED = TaskEnd(TaskStatus.COMPLETED, result=ANSWER)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[TaskSystem, None]:
    async with open_task_system(tmp_path / "appliance.db", start=False) as opened:
        yield opened


async def _queue(
    system: TaskSystem,
    who: Principal,
    name: str,
    at: float = NOW,
    priority: Priority = Priority.NORMAL,
    *,
    timeout_s: float | None = None,
) -> Task:
    request = TaskRequest(prompt=name, priority=priority, timeout_s=timeout_s)
    async with system.db.write() as tx:
        return await tasks.insert(
            tx, tasks.prepare(name, who.user.id, request, "hash", "monkey"), at
        )


async def _claim(
    system: TaskSystem, at: float = NOW, kinds: Sequence[str] = (TaskKind.EXECUTE,)
) -> Task | None:
    async with system.db.write() as tx:
        return await task_queue.claim(tx, at, kinds, OPTIONS)


async def _claim_name(system: TaskSystem, at: float = NOW) -> str | None:
    task = await _claim(system, at)
    return task.public_id if task else None


async def _complete(system: TaskSystem, task: Task | None, at: float = NOW) -> bool:
    assert task
    async with system.db.write() as tx:
        return await task_queue.end(tx, task.attempt_id, TaskStatus.RUNNING, COMPLETED, at)


async def _order(system: TaskSystem, at: float = NOW) -> list[str]:
    """Who is served if one worker works everything off, each task in one second."""
    names: list[str] = []
    while task := await _claim(system, at + len(names)):
        names.append(task.public_id)
        await _complete(system, task)
    return names


async def test_insert_when_read_again_then_equal(system: TaskSystem):
    request = TaskRequest(
        prompt="grüße 🐒",
        files=(SourceFile("a.py", "x = 1"),),
        tests=(SourceFile("test_a.py", "assert 1"),),
        context={"language": "python", "deep": [1, {"x": None}]},
        temperature=0.5,
        priority=Priority.INTERACTIVE,
        labels=("repo-1", "geheim"),
    )
    async with system.db.write() as tx:
        new = tasks.prepare("mine", system.alice.user.id, request, "h", "monkey")
        stored = await tasks.insert(tx, new, NOW)
    async with system.db.read() as connection:
        assert await tasks.get(connection, stored.id) == stored
        assert await tasks.find(connection, "mine", system.alice.user.id) == stored
        assert await tasks.find(connection, "mine", system.bob.user.id) is None
        (owner,) = await tasks.list_owners(connection, "mine", 10)
        assert (owner.id, owner.username) == (system.alice.user.id, "alice")
        (listed,) = await tasks.list_page(connection, system.alice.user.id, PageFilter(), None, 10)
    assert listed.request == msgspec.structs.replace(request, files=(), tests=())


async def test_get_when_stored_before_there_were_labels_then_without_any(system: TaskSystem):
    async with system.db.write() as tx:
        new = tasks.prepare(
            "old", system.alice.user.id, TaskRequest("x", labels=("a",)), "h", "monkey"
        )
        stored = await tasks.insert(tx, new, NOW)
        await tx.execute("UPDATE tasks SET request = json_remove(request, '$.labels')")
    async with system.db.read() as connection:
        read = await tasks.get(connection, stored.id)
    assert read is not None
    assert read.request == TaskRequest("x")


async def test_claim_when_the_queue_is_empty_then_none(system: TaskSystem):
    assert await _claim(system) is None


async def test_claim_when_claimed_then_running_with_a_deadline_and_not_again(system: TaskSystem):
    await _queue(system, system.alice, "short", timeout_s=5.0)
    await _queue(system, system.alice, "endless", timeout_s=5000.0)
    first, second = await _claim(system), await _claim(system)
    assert first
    assert second
    assert (first.status, first.attempt, first.started_at) == (TaskStatus.RUNNING, 1, NOW)
    assert (first.deadline_at, second.deadline_at) == (NOW + 5, NOW + 600)
    assert await _claim(system) is None


async def test_claim_when_priorities_differ_then_the_urgent_first_and_fifo_within(
    system: TaskSystem,
):
    for at, (name, priority) in enumerate(
        [
            ("batch", Priority.BATCH),
            ("normal 1", Priority.NORMAL),
            ("normal 2", Priority.NORMAL),
            ("now", Priority.INTERACTIVE),
        ]
    ):
        await _queue(system, system.alice, name, NOW + at, priority)
    assert await _order(system, NOW + 5) == ["now", "normal 1", "normal 2", "batch"]


async def test_claim_when_one_user_floods_then_the_other_is_next(system: TaskSystem):
    for at in range(20):
        await _queue(system, system.alice, f"a{at}")
    assert await _claim_name(system) == "a0"
    await _queue(system, system.bob, "b0")
    await _queue(system, system.bob, "b1")
    assert [await _claim_name(system, NOW + 1 + at) for at in range(4)] == ["b0", "a1", "b1", "a2"]


async def test_claim_when_a_flood_has_waited_long_then_the_newcomer_is_still_next(
    system: TaskSystem,
):
    for at in range(50):
        await _queue(system, system.alice, f"a{at}", NOW)
    for second in range(0, 400, 10):
        await _complete(system, await _claim(system, NOW + second))
    await _queue(system, system.bob, "b0", NOW + 395)
    assert await _claim_name(system, NOW + 396) == "b0"


async def test_claim_when_urgent_tasks_never_end_then_normal_and_batch_are_lifted(
    system: TaskSystem,
):
    await _queue(system, system.alice, "batch", NOW, Priority.BATCH)
    await _queue(system, system.alice, "normal", NOW, Priority.NORMAL)
    served: dict[str, int] = {}
    for second in range(100):
        await _queue(system, system.bob, f"b{second}", NOW + second, Priority.INTERACTIVE)
        task = await _claim(system, NOW + second)
        assert task
        served[task.public_id] = second
        await _complete(system, task)
    assert served["normal"] == 30
    assert served["batch"] == 60


async def test_claim_when_the_user_s_own_urgent_tasks_never_end_then_batch_is_lifted(
    system: TaskSystem,
):
    await _queue(system, system.alice, "batch", NOW, Priority.BATCH)
    for second in range(61):
        await _queue(system, system.alice, f"a{second}", NOW + second, Priority.INTERACTIVE)
        await _complete(system, await _claim(system, NOW + second))
    async with system.db.read() as connection:
        batch = await tasks.find(connection, "batch", system.alice.user.id)
    assert batch
    assert batch.status is TaskStatus.COMPLETED


async def test_claim_when_the_clock_went_back_then_order_holds(system: TaskSystem):
    await _queue(system, system.alice, "a0", NOW)
    await _claim(system, NOW)
    await _queue(system, system.alice, "a1", NOW - 5000, Priority.BATCH)
    await _queue(system, system.bob, "b0", NOW - 5000, Priority.NORMAL)
    assert [await _claim_name(system, NOW - 4999) for _ in range(2)] == ["b0", "a1"]


async def test_ends_when_two_race_then_only_the_first_counts(system: TaskSystem):
    await _queue(system, system.alice, "a")
    task = await _claim(system)
    assert task
    assert await _complete(system, task)
    failed = TaskEnd(TaskStatus.FAILED, failure=TaskFailure("INTERNAL_ERROR", "late"))
    cancelled = TaskEnd(TaskStatus.CANCELLED)
    async with system.db.write() as tx:
        for late in (COMPLETED, failed, cancelled):
            for status in (TaskStatus.QUEUED, TaskStatus.RUNNING):
                assert not await task_queue.end(tx, task.attempt_id, status, late, NOW)
        assert not await task_queue.requeue(tx, task.attempt_id, NOW, interruptions=1)
        stored = await tasks.get(tx, task.id)
    assert stored
    assert (stored.status, stored.result, stored.finished_at) == (
        TaskStatus.COMPLETED,
        ANSWER,
        NOW,
    )


async def test_ends_when_the_attempt_is_an_old_one_then_nothing_changes(system: TaskSystem):
    await _queue(system, system.alice, "a")
    old = await _claim(system)
    assert old
    async with system.db.write() as tx:
        assert await task_queue.requeue(tx, old.attempt_id, NOW, interruptions=1)
    new = await _claim(system)
    assert new
    assert new.attempt == 2
    assert not await _complete(system, old)
    async with system.db.write() as tx:
        cancelled = TaskEnd(TaskStatus.CANCELLED)
        assert not await task_queue.end(tx, old.attempt_id, old.status, cancelled, NOW)
    async with system.db.write() as tx:
        assert await task_events.append_step(tx, old, EventKind.PROGRESS, {}, NOW) is None
        assert await task_events.append_step(tx, new, EventKind.PROGRESS, {}, NOW)
    assert await _complete(system, new)


async def test_database_when_code_is_wrong_then_its_constraints_hold(system: TaskSystem):
    await _queue(system, system.alice, "a")
    task = await _claim(system)
    await _complete(system, task)
    assert task

    async def try_sql(sql: str) -> None:
        async with system.db.write() as tx:
            await tx.execute(sql)

    async def end_twice(tx: Transaction) -> None:
        await task_events.append(tx, task, EventKind.COMPLETED, {}, NOW)
        await task_events.append(tx, task, EventKind.FAILED, {}, NOW)

    with pytest.raises(sqlite3.IntegrityError, match="keeps its status"):
        await try_sql("UPDATE tasks SET status = 'queued', finished_at = NULL, result = NULL")
    with pytest.raises(sqlite3.IntegrityError):
        await try_sql("UPDATE tasks SET result = NULL")
    with pytest.raises(sqlite3.IntegrityError):
        await _queue(system, system.alice, "a")
    with pytest.raises(sqlite3.IntegrityError):
        async with system.db.write() as tx:
            await end_twice(tx)
    await _queue(system, system.bob, "a")


async def test_journal_numbers_without_a_gap_and_reads_after_any_of_them(system: TaskSystem):
    first, second = await _queue(system, system.alice, "a"), await _queue(system, system.alice, "b")
    async with system.db.write() as tx:
        for at in range(5):
            for task in (first, second):
                event = await task_events.append(
                    tx, task, EventKind.PROGRESS, {"at": at, "pair": (1, 2)}, NOW + at
                )
                assert event.data == {"at": at, "pair": [1, 2]}
    async with system.db.read() as connection:
        whole = await task_events.list_all(connection, first.id)
        assert [event.seq for event in whole] == [1, 2, 3, 4, 5]
        assert await task_events.list_after(connection, first.id, 2, 2) == whole[2:4]
        assert await task_events.list_after(connection, first.id, 5, 2) == []


async def test_page_goes_newest_first_by_status_and_cursor(system: TaskSystem):
    made = [await _queue(system, system.alice, f"a{at}") for at in range(5)]
    await _queue(system, system.bob, "b")
    done = await _claim(system)
    await _complete(system, done)
    async with system.db.read() as connection:
        alice = system.alice.user.id
        ids = [made.id for made in made]
        newest = await tasks.list_page(connection, alice, PageFilter(), None, 2)
        assert [task.id for task in newest] == ids[:2:-1]
        older = await tasks.list_page(connection, alice, PageFilter(), newest[-1].id, 9)
        assert [task.id for task in older] == ids[2::-1]
        (completed,) = await tasks.list_page(
            connection, alice, PageFilter(TaskStatus.COMPLETED), None, 9
        )
        assert (completed.id, completed.result) == (ids[0], ANSWER)


async def test_depth_when_some_wait_and_some_run_then_counted(system: TaskSystem):
    for at in range(3):
        await _queue(system, system.alice, f"a{at}", NOW + at)
    await _claim(system)
    async with system.db.read() as connection:
        assert await task_queue.get_depth(connection, TaskKind.EXECUTE) == task_queue.QueueDepth(
            2, 1, NOW + 1
        )
        assert await task_queue.count_queued(connection) == 2


@pytest.mark.parametrize("analyzed", [False, True])
async def test_hot_queries_when_explained_then_none_scans_a_table(
    system: TaskSystem, analyzed: bool
):
    """What the scheduler, lists and streams do must not grow with what is stored."""
    async with system.db.write() as tx:
        await tx.execute(
            """
            INSERT INTO tasks (public_id, user_id, status, priority, created_at, updated_at,
                               finished_at, request_hash, request, sources)
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
            SELECT 'old' || i, :user, 'cancelled', 1, 1, 1, 1, '', '{}', '{}' FROM n
            """,
            {"user": system.alice.user.id},
        )
        if analyzed:
            await tx.scalar("ANALYZE")
    async with system.db.read() as connection:
        for sql in (
            task_queue.SELECT_NEXT,
            task_queue.SELECT_DEPTH,
            task_queue.COUNT_QUEUED,
            task_queue.SELECT_INTERRUPTION,
            task_leases.SELECT_ABANDONED,
            tasks.select_page(PageFilter()),
            tasks.select_page(PageFilter(TaskStatus.COMPLETED)),
            tasks.select_page(PageFilter(kind="execute", origin="monkey")),
            task_storage.SELECT_EXPIRED,
            task_events.SELECT_AFTER,
        ):
            plan = await _plan(connection, sql)
            assert not [step for step in plan if step.startswith("SCAN task")], plan


class _Step(Struct):
    detail: str


async def _plan(connection: Connection, sql: str) -> list[str]:
    names = set(re.findall(r":([a-z_]+)", sql))
    steps = await connection.all(_Step, f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(names, 1))
    return [step.detail for step in steps]
