"""The table `usage_records`: tokens and cost of completions, written in batches."""

from collections.abc import Sequence

from msgspec import Struct, structs

from appliance.domain.usage import UsageRecord
from appliance.store.database import Connection, Transaction

_COLUMNS = tuple(field.name for field in structs.fields(UsageRecord))
_SELECTED = ", ".join(_COLUMNS).replace("key,", "COALESCE(key, 'record-' || id) AS key,", 1)
_SETTLED = (
    "status", "prompt_tokens", "completion_tokens", "cached_tokens", "exact", "cost", "seconds",
)  # fmt: skip
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in _SETTLED)
# A settled record never changes. Only column names are interpolated; values are parameters.
_STORE = f"""
    INSERT INTO usage_records ({", ".join(_COLUMNS)})
    VALUES ({", ".join(f":{name}" for name in _COLUMNS)})
    ON CONFLICT (key) DO UPDATE SET {_UPDATES}
    WHERE usage_records.status IN ('reserved', 'interrupted') AND excluded.status <> 'reserved'
    """  # noqa: S608


_SELECT_FOR_USER = f"""
    SELECT {_SELECTED} FROM usage_records WHERE user_id = :user_id AND started_at >= :since
    ORDER BY started_at DESC, id DESC LIMIT :limit
    """  # noqa: S608


class ModelCost(Struct, frozen=True):
    """The cost of a model of a provider in a span of time."""

    provider: str
    model: str
    cost: float


async def store(tx: Transaction, records: Sequence[UsageRecord]) -> None:
    """Insert the records, or settle those that exist."""
    if records:
        await tx.execute_each(_STORE, [structs.asdict(record) for record in records])


async def settle_interrupted(tx: Transaction, owner: str, before: float) -> int:
    """Settle reservations that a crash left open; returns how many.

    Those of this owner, of versions that stored none, and those from `before`, whose server
    has not come back.
    """
    return await tx.execute(
        """
        UPDATE usage_records SET status = 'interrupted', seconds = 0
        WHERE status = 'reserved'
            AND (owner = :owner OR owner IS NULL OR started_at < :before)
        """,
        {"owner": owner, "before": before},
    )


async def settle_task(tx: Transaction, task_id: int) -> None:
    """Settle the open reservations of a task that has ended."""
    await tx.execute(
        """
        UPDATE usage_records SET status = 'interrupted', seconds = 0
        WHERE task_id = :task_id AND status = 'reserved'
        """,
        {"task_id": task_id},
    )


async def sum_costs_since(connection: Connection, since: float) -> list[ModelCost]:
    """Cost by provider and model from `since` (epoch seconds) on.

    An interrupted record counts with its reserved cost, since its usage is unknown.
    """
    return await connection.all(
        ModelCost,
        """
        SELECT provider, model,
               sum(coalesce(cost, CASE status WHEN 'interrupted' THEN reserved_cost END, 0)) AS cost
        FROM usage_records WHERE started_at >= :since GROUP BY provider, model
        """,
        {"since": since},
    )


async def list_for_user(
    connection: Connection, user_id: int, since: float, limit: int
) -> list[UsageRecord]:
    """The user's records from `since` (epoch seconds) on, newest first."""
    return await connection.all(
        UsageRecord,
        _SELECT_FOR_USER,
        {"user_id": user_id, "since": since, "limit": limit},
    )
