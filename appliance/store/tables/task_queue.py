"""The queue in the table `tasks`: selection of the next task, and every change of status.

Each change is conditional on the expected status (and attempt) and returns whether it was
made: of two concurrent changes only one succeeds. The lease of a task that no longer runs is
deleted by a trigger.
"""

from collections.abc import Sequence

from msgspec import Struct

from appliance.domain.tasks import AttemptId, Task, TaskFailure, TaskResult, TaskStatus
from appliance.store.database import Connection, Transaction
from appliance.store.rows import to_json
from appliance.store.tables import task_leases
from appliance.store.tables.tasks import TaskRow

# Each failed try means that another process has started a task.
_CLAIM_TRIES = 10


class QueueDepth(Struct, frozen=True):
    """`oldest_at` is when the oldest queued task was accepted (epoch seconds)."""

    queued: int
    running: int
    oldest_at: float | None


class Interruption(Struct, frozen=True):
    """`count` is the number of earlier consecutive interruptions of a task.

    `progressed`: the interrupted attempt recorded a step that the next attempt can skip.
    """

    count: int
    progressed: bool


class ClaimOptions(Struct, frozen=True):
    """`owner` runs the claimed tasks; its lease lasts `lease_s` unless it is renewed.

    `ageing_s` is the waiting time that raises a task by one priority class. `timeout_s` bounds
    every attempt.
    """

    owner: str
    lease_s: float
    ageing_s: float
    timeout_s: float


class TaskEnd(Struct, frozen=True):
    """A final status, with the result of a completed or the failure of a failed task."""

    status: TaskStatus
    result: TaskResult | None = None
    failure: TaskFailure | None = None


class _Next(Struct, frozen=True):
    id: int
    user_id: int
    kind: str
    priority: int
    timeout_s: float | None


async def claim(
    tx: Transaction, now: float, kinds: Sequence[str], options: ClaimOptions
) -> Task | None:
    """Select the next task of the first of `kinds` that has one, and set it to running.

    Returns None if none of these kinds has a queued task. Each kind has a queue of its own. The
    order is: priority class, raised by one for each `ageing_s` of waiting (only
    interactive tasks are in the highest class from the start); the user with the fewest
    running tasks; the user served longest ago; the oldest task. Waiting counts from the
    acceptance of the task, or from the last start of a task of the same user and priority
    if that is later, so that a long queue of one user does not age as a whole above the
    others. Times in the future, from before the clock was set back, count as long ago.
    """
    for kind in kinds:
        task = await _claim_kind(tx, now, kind, options)
        if task is not None:
            return task
    return None


async def _claim_kind(tx: Transaction, now: float, kind: str, options: ClaimOptions) -> Task | None:
    for _ in range(_CLAIM_TRIES):
        chosen = await tx.one(
            _Next, SELECT_NEXT, {"kind": kind, "now": now, "ageing_s": options.ageing_s}
        )
        if chosen is None:
            return None
        task = await _start(tx, chosen, now, options)
        if task is not None:
            return task
    return None


async def _start(tx: Transaction, chosen: _Next, now: float, options: ClaimOptions) -> Task | None:
    """queued → running; None if another process was faster."""
    allowed = min(chosen.timeout_s or options.timeout_s, options.timeout_s)
    started = await tx.one(
        TaskRow,
        """
        UPDATE tasks
        SET status = 'running', attempt = attempt + 1, started_at = :now, updated_at = :now,
            deadline_at = :deadline_at
        WHERE id = :id AND status = 'queued'
        RETURNING *
        """,
        {"id": chosen.id, "now": now, "deadline_at": now + allowed},
    )
    if started is None:
        return None
    await tx.execute(
        """
        INSERT INTO task_turns (user_id, kind, priority, last_at)
        VALUES (:user_id, :kind, :priority, :now)
        ON CONFLICT (user_id, kind, priority) DO UPDATE SET last_at = excluded.last_at
        """,
        {
            "user_id": chosen.user_id,
            "kind": chosen.kind,
            "priority": chosen.priority,
            "now": now,
        },
    )
    task = started.to_task()
    await task_leases.grant(tx, task.attempt_id, options.owner, now + options.lease_s)
    return task


async def end(
    tx: Transaction, attempt: AttemptId, status: TaskStatus, outcome: TaskEnd, now: float
) -> bool:
    """`status` (queued or running) → a final status."""
    changed = await tx.execute(
        """
        UPDATE tasks
        SET status = :final, result = :result, failure = :failure, finished_at = :now,
            updated_at = :now
        WHERE id = :id AND status = :status AND attempt = :attempt
        """,
        {
            "id": attempt.task_id,
            "attempt": attempt.attempt,
            "status": status,
            "final": outcome.status,
            "result": to_json(outcome.result) if outcome.result else None,
            "failure": to_json(outcome.failure) if outcome.failure else None,
            "now": now,
        },
    )
    return changed == 1


async def requeue(
    tx: Transaction, attempt: AttemptId, now: float, *, interruptions: int = 0
) -> bool:
    """running → queued, at its old place. `interruptions` counts consecutive crashes."""
    changed = await tx.execute(
        """
        UPDATE tasks
        SET status = 'queued', started_at = NULL, deadline_at = NULL, updated_at = :now,
            interruptions = :interruptions
        WHERE id = :id AND status = 'running' AND attempt = :attempt
        """,
        {
            "id": attempt.task_id,
            "attempt": attempt.attempt,
            "now": now,
            "interruptions": interruptions,
        },
    )
    return changed == 1


async def get_interruption(connection: Connection, task_id: int) -> Interruption | None:
    """What is known of a running task whose attempt was interrupted."""
    return await connection.one(Interruption, SELECT_INTERRUPTION, {"id": task_id})


async def count_queued(connection: Connection) -> int:
    """The number of queued tasks."""
    return int(await connection.scalar(COUNT_QUEUED))


async def count_queued_for_user(connection: Connection, user_id: int) -> int:
    """The number of queued tasks of a user."""
    return int(await connection.scalar(COUNT_QUEUED_FOR_USER, {"user_id": user_id}))


async def get_depth(connection: Connection, kind: str) -> QueueDepth:
    """The number of queued and running tasks of a kind; takes time linear in the queue's length."""
    depth = await connection.one(QueueDepth, SELECT_DEPTH, {"kind": kind})
    return depth or QueueDepth(0, 0, None)


SELECT_NEXT = """
SELECT task.id, task.user_id, task.kind, task.priority, task.timeout_s
FROM (
    SELECT user_id, priority, MIN(id) AS id
    FROM tasks WHERE status = 'queued' AND kind = :kind GROUP BY user_id, priority
) AS head
JOIN tasks AS task ON task.id = head.id
LEFT JOIN task_turns AS turn
    ON turn.user_id = head.user_id AND turn.kind = task.kind AND turn.priority = head.priority
CROSS JOIN (SELECT :now AS now, :ageing_s AS ageing_s) AS clock
WHERE task.status = 'queued'
ORDER BY
    CASE
        WHEN ABS(clock.now - task.created_at) >= clock.ageing_s * task.priority
            AND ABS(clock.now - COALESCE(turn.last_at, 0)) >= clock.ageing_s * task.priority
            THEN 0
        WHEN ABS(clock.now - task.created_at) >= clock.ageing_s
            AND ABS(clock.now - COALESCE(turn.last_at, 0)) >= clock.ageing_s
            THEN task.priority - 1
        ELSE task.priority
    END,
    (SELECT COUNT(*) FROM tasks AS other
     WHERE other.status = 'running' AND other.kind = task.kind
         AND other.user_id = head.user_id),
    (SELECT COALESCE(MAX(any_turn.last_at), 0) FROM task_turns AS any_turn
     WHERE any_turn.user_id = head.user_id AND any_turn.kind = task.kind
         AND any_turn.last_at <= clock.now),
    task.id
LIMIT 1
"""
SELECT_DEPTH = """
SELECT
    (SELECT COUNT(*) FROM tasks WHERE status = 'queued' AND kind = :kind) AS queued,
    (SELECT COUNT(*) FROM tasks WHERE status = 'running' AND kind = :kind) AS running,
    (SELECT created_at FROM tasks
     WHERE id = (SELECT MIN(id) FROM tasks WHERE status = 'queued' AND kind = :kind)) AS oldest_at
"""
COUNT_QUEUED = "SELECT COUNT(*) FROM tasks WHERE status = 'queued'"
COUNT_QUEUED_FOR_USER = """
SELECT COUNT(*) FROM tasks WHERE status = 'queued' AND user_id = :user_id
"""
SELECT_INTERRUPTION = """
SELECT interruptions AS count,
    EXISTS (
        SELECT 1 FROM task_events AS step
        WHERE step.task_id = tasks.id AND step.kind NOT IN ('accepted', 'started', 'progress')
        AND step.seq > (
            SELECT MAX(seq) FROM task_events AS begin
            WHERE begin.task_id = tasks.id AND begin.kind = 'started'
        )
    ) AS progressed
FROM tasks WHERE id = :id AND status = 'running'
"""
