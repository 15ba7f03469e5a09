"""The table `task_events`: the journal of each task, numbered from 1 without a gap."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from appliance.domain.tasks import EventKind, Task, TaskEvent
from appliance.store.sqlite.database import Connection, Database, Transaction
from appliance.store.sqlite.rows import to_json


async def append(
    tx: Transaction, task_id: int, kind: EventKind, data: Mapping[str, Any], now: float
) -> TaskEvent:
    """Write the next line; the same transaction has changed or just read the task's status."""
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
    """Write the next line of a running attempt; None if that attempt no longer runs."""
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


async def after(connection: Connection, task_id: int, seq: int, limit: int) -> list[TaskEvent]:
    """Up to `limit` lines of the journal that follow `seq`, in order."""
    return await connection.all(TaskEvent, AFTER, {"task_id": task_id, "seq": seq, "limit": limit})


async def whole(connection: Connection, task_id: int) -> list[TaskEvent]:
    """The journal of one task, in order."""
    return await connection.all(
        TaskEvent,
        "SELECT task_id, seq, at, kind, data FROM task_events WHERE task_id = :id ORDER BY seq",
        {"id": task_id},
    )


def reader(db: Database) -> Callable[[int, int, int], Awaitable[list[TaskEvent]]]:
    """`after` on a connection of its own: what an event bus reads with."""

    async def read(task_id: int, seq: int, limit: int) -> list[TaskEvent]:
        async with db.read() as connection:
            return await after(connection, task_id, seq, limit)

    return read


def _event(task_id: int, seq: int, now: float, kind: EventKind, text: str) -> TaskEvent:
    # From the text that was stored: a follower sees the same live as from the journal.
    return TaskEvent(task_id, seq, now, kind, msgspec.json.decode(text))


AFTER = """
SELECT task_id, seq, at, kind, data FROM task_events
WHERE task_id = :task_id AND seq > :seq ORDER BY seq LIMIT :limit
"""
