"""The table `task_events`: the journal of each task, numbered from 1 without gaps."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from appliance.domain.tasks import EventKind, Task, TaskEvent
from appliance.store.sqlite.database import Connection, Database, Transaction
from appliance.store.sqlite.rows import to_json


async def append(
    tx: Transaction, task_id: int, kind: EventKind, data: Mapping[str, Any], now: float
) -> TaskEvent:
    """Append an event, in the transaction that changed or read the task's status."""
    text = to_json(data)
    seq = await tx.scalar(
        """
        INSERT INTO task_events (task_id, seq, at, kind, data)
        SELECT :task_id, COALESCE(MAX(seq), 0) + 1, :now, :kind, :data
        FROM task_events WHERE task_id = :task_id
        RETURNING seq
        """,
        {"task_id": task_id, "now": now, "kind": kind, "data": text},
    )
    return _event(task_id, seq, now, kind, text)


async def append_step(
    tx: Transaction, task: Task, kind: EventKind, data: Mapping[str, Any], now: float
) -> TaskEvent | None:
    """Append an event of a running attempt; None if that attempt is no longer running."""
    text = to_json(data)
    seq = await tx.scalar(
        """
        INSERT INTO task_events (task_id, seq, at, kind, data)
        SELECT id, (SELECT COALESCE(MAX(seq), 0) + 1 FROM task_events WHERE task_id = :task_id),
               :now, :kind, :data
        FROM tasks WHERE id = :task_id AND status = 'running' AND attempt = :attempt
        RETURNING seq
        """,
        {"task_id": task.id, "attempt": task.attempt, "now": now, "kind": kind, "data": text},
    )
    return None if seq is None else _event(task.id, seq, now, kind, text)


async def list_after(connection: Connection, task_id: int, seq: int, limit: int) -> list[TaskEvent]:
    """Up to `limit` events after `seq`, in order."""
    return await connection.all(
        TaskEvent, SELECT_AFTER, {"task_id": task_id, "seq": seq, "limit": limit}
    )


async def list_all(connection: Connection, task_id: int) -> list[TaskEvent]:
    """All events of a task, in order."""
    return await connection.all(
        TaskEvent,
        "SELECT task_id, seq, at, kind, data FROM task_events WHERE task_id = :id ORDER BY seq",
        {"id": task_id},
    )


async def list_model_calls(connection: Connection, task_id: int) -> list[TaskEvent]:
    """The events of a task that may record what a model used, in order."""
    return await connection.all(
        TaskEvent,
        """
        SELECT task_id, seq, at, kind, data FROM task_events
        WHERE task_id = :id AND kind IN ('planned', 'candidate', 'progress') ORDER BY seq
        """,
        {"id": task_id},
    )


def create_reader(db: Database) -> Callable[[int, int, int], Awaitable[list[TaskEvent]]]:
    """`list_after` on a connection of its own, for the event bus."""

    async def read(task_id: int, seq: int, limit: int) -> list[TaskEvent]:
        async with db.read() as connection:
            return await list_after(connection, task_id, seq, limit)

    return read


def _event(task_id: int, seq: int, now: float, kind: EventKind, text: str) -> TaskEvent:
    # Decode the stored text, so that followers get the same data live and from the journal.
    return TaskEvent(task_id, seq, now, kind, msgspec.json.decode(text))


SELECT_AFTER = """
SELECT task_id, seq, at, kind, data FROM task_events
WHERE task_id = :task_id AND seq > :seq ORDER BY seq LIMIT :limit
"""
