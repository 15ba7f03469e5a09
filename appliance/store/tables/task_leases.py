"""The table `task_leases`: the owner of each running task, and until when it counts as alive."""

from appliance.domain.tasks import AttemptId
from appliance.store.database import Connection, Transaction


async def grant(tx: Transaction, attempt: AttemptId, owner: str, expires_at: float) -> None:
    """Give the lease of a task to the owner of a new attempt."""
    await tx.execute(
        """
        INSERT INTO task_leases (task_id, attempt, owner, expires_at)
        VALUES (:task_id, :attempt, :owner, :expires_at)
        ON CONFLICT (task_id) DO UPDATE SET
            attempt = excluded.attempt, owner = excluded.owner, expires_at = excluded.expires_at
        """,
        {
            "task_id": attempt.task_id,
            "attempt": attempt.attempt,
            "owner": owner,
            "expires_at": expires_at,
        },
    )


async def renew(tx: Transaction, owner: str, expires_at: float) -> set[AttemptId]:
    """Extend all leases of an owner; returns the attempts that still have one."""
    renewed = await tx.all(
        AttemptId,
        """
        UPDATE task_leases SET expires_at = :expires_at WHERE owner = :owner
        RETURNING task_id, attempt
        """,
        {"owner": owner, "expires_at": expires_at},
    )
    return set(renewed)


async def list_abandoned(connection: Connection, owner: str, now: float) -> list[AttemptId]:
    """Running attempts of `owner`, and those of anyone that have no lease at `now`."""
    return await connection.all(AttemptId, SELECT_ABANDONED, {"owner": owner, "now": now})


SELECT_ABANDONED = """
SELECT tasks.id AS task_id, tasks.attempt
FROM tasks
LEFT JOIN task_leases AS lease ON lease.task_id = tasks.id AND lease.attempt = tasks.attempt
WHERE tasks.status = 'running'
    AND (lease.owner IS NULL OR lease.owner = :owner OR lease.expires_at < :now)
ORDER BY tasks.id
"""
