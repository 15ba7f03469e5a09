"""The order in which tasks are claimed follows the rule of appliance.spi.fair_queue."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from appliance.domain.tasks import Priority, Task, TaskKind, TaskRequest, TaskStatus
from appliance.store.tables import task_queue, tasks
from appliance.store.tables.task_queue import ClaimOptions, TaskEnd
from tests.support.task_system import ANSWER, TaskSystem, open_task_system

AGEING_S = 30.0
NOW = 1_000_000.0
CLASSES = list(Priority)
_settings = settings(max_examples=10, deadline=None, derandomize=True, database=None)


class Arrival(Struct, frozen=True):
    user: int
    priority: Priority
    after_s: float


ARRIVALS = st.builds(
    Arrival, st.integers(0, 2), st.sampled_from(CLASSES), st.sampled_from([0.0, 1.0, 10.0, 70.0])
)


async def insert(system: TaskSystem, user_id: int, priority: Priority, at: float) -> Task:
    request = TaskRequest(prompt="x", priority=priority)
    async with system.db.write() as tx:
        name = f"task {await tx.scalar('SELECT COUNT(*) FROM tasks')}"
        return await tasks.insert(tx, tasks.prepare(name, user_id, request, "hash", "monkey"), at)


async def claim(system: TaskSystem, at: float) -> Task:
    async with system.db.write() as tx:
        options = ClaimOptions("a-server", 30.0, AGEING_S, 600.0)
        task = await task_queue.claim(tx, at, [TaskKind.EXECUTE], options)
    assert task is not None
    return task


async def end(system: TaskSystem, task: Task, at: float) -> None:
    async with system.db.write() as tx:
        completed = TaskEnd(TaskStatus.COMPLETED, result=ANSWER)
        assert await task_queue.end(tx, task.attempt_id, TaskStatus.RUNNING, completed, at)


async def clear(system: TaskSystem) -> list[int]:
    """Returns the ids of the users."""
    async with system.db.write() as tx:
        for table in ("task_leases", "task_events", "tasks", "task_turns", "deleted_tasks"):
            await tx.execute(f"DELETE FROM {table}")
    return [each.user.id for each in (system.alice, system.bob, system.admin)]


async def check_order(system: TaskSystem, arrivals: list[Arrival], service_s: float) -> None:
    """One worker; each claimed task is the oldest of its user and class, in the first class."""
    users, served_at = await clear(system), dict[tuple[int, Priority], float]()
    now = NOW
    waiting: list[Task] = []

    def level(task: Task) -> int:
        since = max(
            task.created_at,
            served_at.get((task.user_id, task.request_as(TaskRequest).priority), 0.0),
        )
        return max(
            0, CLASSES.index(task.request_as(TaskRequest).priority) - int((now - since) / AGEING_S)
        )

    for arrival in arrivals:
        waiting.append(await insert(system, users[arrival.user], arrival.priority, now))
        now += arrival.after_s
    while waiting:
        flows = {
            (each.user_id, each.request_as(TaskRequest).priority): each
            for each in reversed(waiting)
        }
        task = await claim(system, now)
        flow = task.user_id, task.request_as(TaskRequest).priority
        assert task.id == flows[flow].id
        assert level(flows[flow]) == min(map(level, flows.values()))
        waiting = [each for each in waiting if each.id != task.id]
        served_at[flow] = now
        now += service_s
        await end(system, task, now)


async def check_shares(system: TaskSystem, workers: int, ends: list[int]) -> None:
    """Each claim is for a user with the fewest running tasks; one worker serves all alike."""
    users, served, running = await clear(system), Counter[int](), list[Task]()
    number = 8
    for user in users:
        for _ in range(number):
            await insert(system, user, Priority.NORMAL, NOW)
    for step in range(15):
        if len(running) == workers:
            await end(system, running.pop(ends[step % len(ends)] % workers), NOW + step)
        of_user = Counter(task.user_id for task in running)
        running.append(await claim(system, NOW + step))
        user_id = running[-1].user_id
        waiting = [user for user in users if served[user] < number]
        assert of_user[user_id] == min(of_user[user] for user in waiting)
        served[user_id] += 1
    if workers == 1:
        assert [served[user] for user in users] == [5, 5, 5]


def test_claim_when_tasks_come_at_any_times_then_by_class_with_ageing_and_by_arrival(
    tmp_path: Path,
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        system = runner.run(
            stack.enter_async_context(open_task_system(tmp_path / "a.db", start=False))
        )

        @_settings
        @given(st.lists(ARRIVALS, min_size=6, max_size=14), st.sampled_from([1.0, 12.0, 45.0]))
        def check(arrivals: list[Arrival], service_s: float) -> None:
            runner.run(check_order(system, arrivals, service_s))

        check()
        runner.run(stack.aclose())


def test_claim_when_users_are_backlogged_then_who_has_the_fewest_running_is_next(
    tmp_path: Path,
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        system = runner.run(
            stack.enter_async_context(open_task_system(tmp_path / "a.db", start=False))
        )

        @settings(_settings, max_examples=3)
        @given(st.integers(1, 4), st.lists(st.integers(0, 3), min_size=4, max_size=8))
        def check(workers: int, ends: list[int]) -> None:
            runner.run(check_shares(system, workers, ends))

        check()
        runner.run(stack.aclose())


async def test_claim_when_the_clock_was_set_back_then_users_take_turns_and_tasks_age(
    tmp_path: Path,
) -> None:
    tomorrow = NOW + 86400.0
    async with open_task_system(tmp_path / "a.db", start=False) as system:
        alice, bob, admin = await clear(system)
        await insert(system, alice, Priority.NORMAL, tomorrow)
        await end(system, await claim(system, tomorrow), tomorrow)
        await insert(system, admin, Priority.BATCH, tomorrow)
        for user in (bob, alice) * 2:
            await insert(system, user, Priority.NORMAL, NOW)

        served = list[int]()
        for step in range(5):
            task = await claim(system, NOW + step)
            await end(system, task, NOW + step)
            served.append(task.user_id)

    assert served == [admin, bob, alice, bob, alice]
