"""The queue in the table `tasks`: selection of the next task, and every change of status.

Each change is conditional on the expected status (and attempt) and returns whether it was
made: of two concurrent changes only one succeeds.
"""

from msgspec import Struct

from appliance.domain.tasks import Task, TaskFailure, TaskResult, TaskStatus
from appliance.store.sqlite.connection import Connection, Transaction
from appliance.store.sqlite.rows import to_json
from appliance.store.tables import tasks


class QueueDepth(Struct, frozen=True):
    """`oldest_at` is when the oldest queued task was accepted (epoch seconds)."""

    queued: int
    running: int
    oldest_at: float | None


class InterruptedTask(Struct, frozen=True):
    """A task whose status is running although no process works on it.

    `interruptions` counts earlier consecutive interruptions by a crash. `progressed`: the
    interrupted attempt recorded a step that the next attempt can skip.
    """

    id: int
    attempt: int
    interruptions: int
    progressed: bool


class _Next(Struct, frozen=True):
    id: int
    user_id: int
    priority: int
    timeout_s: float | None


async def claim(tx: Transaction, now: float, ageing_s: float, timeout_s: float) -> Task | None:
    """Select the next task and set it to running; None if the queue is empty.

    The order is: priority class, raised by one for each `ageing_s` of waiting (only
    interactive tasks are in the highest class from the start); the user with the fewest
    running tasks; the user served longest ago; the oldest task. Waiting counts from the
    acceptance of the task, or from the last start of a task of the same user and priority
    if that is later, so that a long queue of one user does not age as a whole above the
    others. `timeout_s` bounds every attempt.
    """
    chosen = await tx.one(_Next, SELECT_NEXT, {"now": now, "ageing_s": ageing_s})
    if chosen is None:
        return None
    allowed = min(chosen.timeout_s or timeout_s, timeout_s)
    await tx.execute(
        """
        UPDATE tasks
        SET status = 'running', attempt = attempt + 1, started_at = :now, updated_at = :now,
            deadline_at = :deadline_at
        WHERE id = :id AND status = 'queued'
        """,
        {"id": chosen.id, "now": now, "deadline_at": now + allowed},
    )
    await tx.execute(
        """
        INSERT INTO task_turns (user_id, priority, last_at) VALUES (:user_id, :priority, :now)
        ON CONFLICT (user_id, priority) DO UPDATE SET last_at = excluded.last_at
        """,
        {"user_id": chosen.user_id, "priority": chosen.priority, "now": now},
    )
    return await tasks.get(tx, chosen.id)


async def complete(tx: Transaction, task: Task, result: TaskResult, now: float) -> bool:
    """running → completed."""
    changed = await tx.execute(
        """
        UPDATE tasks
        SET status = 'completed', result = :result, finished_at = :now, updated_at = :now
        WHERE id = :id AND status = 'running' AND attempt = :attempt
        """,
        {"id": task.id, "attempt": task.attempt, "result": to_json(result), "now": now},
    )
    return changed == 1


async def fail(
    tx: Transaction, task_id: int, attempt: int, failure: TaskFailure, now: float
) -> bool:
    """running → failed."""
    changed = await tx.execute(
        """
        UPDATE tasks
        SET status = 'failed', failure = :failure, finished_at = :now, updated_at = :now
        WHERE id = :id AND status = 'running' AND attempt = :attempt
        """,
        {"id": task_id, "attempt": attempt, "failure": to_json(failure), "now": now},
    )
    return changed == 1


async def cancel(tx: Transaction, task_id: int, status: TaskStatus, now: float) -> bool:
    """`status` (queued or running) → cancelled."""
    changed = await tx.execute(
        """
        UPDATE tasks SET status = 'cancelled', finished_at = :now, updated_at = :now
        WHERE id = :id AND status = :status
        """,
        {"id": task_id, "status": status, "now": now},
    )
    return changed == 1


async def requeue(
    tx: Transaction, task_id: int, attempt: int, now: float, *, interruptions: int = 0
) -> bool:
    """running → queued, at its old place. `interruptions` counts consecutive crashes."""
    changed = await tx.execute(
        """
        UPDATE tasks
        SET status = 'queued', started_at = NULL, deadline_at = NULL, updated_at = :now,
            interruptions = :interruptions
        WHERE id = :id AND status = 'running' AND attempt = :attempt
        """,
        {"id": task_id, "attempt": attempt, "now": now, "interruptions": interruptions},
    )
    return changed == 1


async def list_running(connection: Connection) -> list[InterruptedTask]:
    """The tasks whose status is running."""
    return await connection.all(InterruptedTask, SELECT_RUNNING)


async def count_queued(connection: Connection) -> int:
    """The number of queued tasks."""
    return int(await connection.scalar(COUNT_QUEUED))


async def count_queued_for_user(connection: Connection, user_id: int) -> int:
    """The number of queued tasks of a user."""
    return int(await connection.scalar(COUNT_QUEUED_FOR_USER, {"user_id": user_id}))


async def get_depth(connection: Connection) -> QueueDepth:
    """The number of queued and running tasks; takes time linear in the queue's length."""
    depth = await connection.one(QueueDepth, SELECT_DEPTH)
    return depth or QueueDepth(0, 0, None)


SELECT_NEXT = """
SELECT task.id, task.user_id, task.priority, task.timeout_s
FROM (
    SELECT user_id, priority, MIN(id) AS id
    FROM tasks WHERE status = 'queued' GROUP BY user_id, priority
) AS head
JOIN tasks AS task ON task.id = head.id
LEFT JOIN task_turns AS turn
    ON turn.user_id = head.user_id AND turn.priority = head.priority
CROSS JOIN (SELECT :now AS now, :ageing_s AS ageing_s) AS clock
ORDER BY
    CASE
        WHEN clock.now - task.created_at >= clock.ageing_s * task.priority
            AND clock.now - COALESCE(turn.last_at, 0) >= clock.ageing_s * task.priority
            THEN 0
        WHEN clock.now - task.created_at >= clock.ageing_s
            AND clock.now - COALESCE(turn.last_at, 0) >= clock.ageing_s
            THEN task.priority - 1
        ELSE task.priority
    END,
    (SELECT COUNT(*) FROM tasks AS other
     WHERE other.status = 'running' AND other.user_id = head.user_id),
    (SELECT COALESCE(MAX(any_turn.last_at), 0) FROM task_turns AS any_turn
     WHERE any_turn.user_id = head.user_id),
    task.id
LIMIT 1
"""
SELECT_DEPTH = """
SELECT
    (SELECT COUNT(*) FROM tasks WHERE status = 'queued') AS queued,
    (SELECT COUNT(*) FROM tasks WHERE status = 'running') AS running,
    (SELECT created_at FROM tasks
     WHERE id = (SELECT MIN(id) FROM tasks WHERE status = 'queued')) AS oldest_at
"""
COUNT_QUEUED = "SELECT COUNT(*) FROM tasks WHERE status = 'queued'"
COUNT_QUEUED_FOR_USER = """
SELECT COUNT(*) FROM tasks WHERE status = 'queued' AND user_id = :user_id
"""
SELECT_RUNNING = """
SELECT id, attempt, interruptions,
    EXISTS (
        SELECT 1 FROM task_events AS step
        WHERE step.task_id = tasks.id AND step.kind NOT IN ('accepted', 'started', 'progress')
        AND step.seq > (
            SELECT MAX(seq) FROM task_events AS begin
            WHERE begin.task_id = tasks.id AND begin.kind = 'started'
        )
    ) AS progressed
FROM tasks WHERE status = 'running' ORDER BY id
"""
