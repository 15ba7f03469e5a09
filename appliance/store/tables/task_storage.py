"""What tasks and their journals store: bytes per user, expiry, deletion."""

from collections.abc import Sequence

from appliance.domain.tasks import TaskStatus
from appliance.store.database import Connection, Transaction


async def get_stored_bytes(connection: Connection, user_id: int) -> int:
    """The size of a user's tasks and their journals; triggers keep it."""
    stored = await connection.scalar(
        "SELECT bytes FROM user_storage WHERE user_id = :user_id", {"user_id": user_id}
    )
    return int(stored or 0)


async def list_expired(
    connection: Connection, kind: str, status: TaskStatus, ended_before: float, limit: int
) -> list[int]:
    """The ids of up to `limit` tasks of a kind that ended with this status before a time, oldest
    first."""
    return await connection.column(
        SELECT_EXPIRED, {"kind": kind, "status": status, "before": ended_before, "limit": limit}
    )


async def delete(tx: Transaction, task_ids: Sequence[int]) -> None:
    """Delete ended tasks with their journals."""
    rows = [{"id": task_id} for task_id in task_ids]
    # The journal first: its trigger reads the task's user.
    await tx.execute_each("DELETE FROM task_events WHERE task_id = :id", rows)
    await tx.execute_each("DELETE FROM tasks WHERE id = :id", rows)


SELECT_EXPIRED = """
SELECT id FROM tasks
WHERE status = :status AND kind = :kind AND finished_at IS NOT NULL
    AND finished_at < :before
ORDER BY finished_at LIMIT :limit
"""
