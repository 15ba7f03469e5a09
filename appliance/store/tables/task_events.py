"""The table `task_events`: the journal of each task, numbered from 1 without gaps."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from appliance.domain.tasks import Task, TaskEvent
from appliance.domain.user_events import UserEvent
from appliance.store.database import Connection, Database, Transaction
from appliance.store.rows import to_json
from appliance.store.tables import user_feeds


async def append(
    tx: Transaction, task: Task, kind: str, data: Mapping[str, Any], now: float
) -> UserEvent:
    """Append an event, in the transaction that changed or read the task's status.

    It is numbered in the task's journal and in the user's feed. Publish it after the commit.
    """
    new = await _next_event(tx, task, kind, data, now)
    seq = await tx.scalar(
        """
        INSERT INTO task_events (task_id, seq, at, kind, data, user_id, user_seq)
        SELECT :task_id, COALESCE(MAX(seq), 0) + 1, :now, :kind, :data, :user_id, :user_seq
        FROM task_events WHERE task_id = :task_id
        RETURNING seq
        """,
        new,
    )
    return _event(task, seq, new)


async def append_step(
    tx: Transaction, task: Task, kind: str, data: Mapping[str, Any], now: float
) -> UserEvent | None:
    """Append an event of a running attempt; None if that attempt is no longer running."""
    new = await _next_event(tx, task, kind, data, now)
    seq = await tx.scalar(
        """
        INSERT INTO task_events (task_id, seq, at, kind, data, user_id, user_seq)
        SELECT id, (SELECT COALESCE(MAX(seq), 0) + 1 FROM task_events WHERE task_id = :task_id),
               :now, :kind, :data, :user_id, :user_seq
        FROM tasks WHERE id = :task_id AND status = 'running' AND attempt = :attempt
        RETURNING seq
        """,
        new | {"attempt": task.attempt},
    )
    return None if seq is None else _event(task, seq, new)


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


async def _next_event(
    tx: Transaction, task: Task, kind: str, data: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """The columns of the next event, but for its `seq` in the journal."""
    return {
        "task_id": task.id,
        "now": now,
        "kind": kind,
        "data": to_json(data),
        "user_id": task.user_id,
        "user_seq": await user_feeds.take_next_seq(tx, task.user_id),
    }


def _event(task: Task, seq: int, new: Mapping[str, Any]) -> UserEvent:
    return UserEvent(
        user_id=task.user_id,
        seq=new["user_seq"],
        at=new["now"],
        kind=new["kind"],
        # Decode the stored text, so that followers get the same data live and from the journal.
        data=msgspec.json.decode(new["data"]),
        task_id=task.id,
        task_public_id=task.public_id,
        task_seq=seq,
    )


SELECT_AFTER = """
SELECT task_id, seq, at, kind, data FROM task_events
WHERE task_id = :task_id AND seq > :seq ORDER BY seq LIMIT :limit
"""
