"""The tables `user_feeds` and `user_events`: the sequence of a user's events.

The feed consists of the rows of `task_events` that have a `user_seq`, and those of
`user_events`. Whoever appends takes the next number first, which locks the user's row until
the commit, so that numbers become visible in order: SQLite has one writer; on PostgreSQL the
UPDATE holds the row lock.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from appliance.domain.user_events import UserEvent, UserEventKind
from appliance.store.database import Connection, Database, Transaction
from appliance.store.rows import to_json


async def take_next_seq(tx: Transaction, user_id: int) -> int:
    """The number of the next event in the user's feed."""
    return await tx.scalar(
        """
        INSERT INTO user_feeds (user_id, last_seq) VALUES (:user_id, 1)
        ON CONFLICT (user_id) DO UPDATE SET last_seq = user_feeds.last_seq + 1
        RETURNING last_seq
        """,
        {"user_id": user_id},
    )


async def get_last_seq(connection: Connection, user_id: int) -> int:
    """The number of the newest event of the user; 0 before the first."""
    last = await connection.scalar(
        "SELECT last_seq FROM user_feeds WHERE user_id = :user_id", {"user_id": user_id}
    )
    return last or 0


async def append(
    tx: Transaction, user_id: int, kind: UserEventKind, data: Mapping[str, Any], now: float
) -> UserEvent:
    """Append an event of no task; publish it after the commit."""
    seq, text = await take_next_seq(tx, user_id), to_json(data)
    await tx.execute(
        """
        INSERT INTO user_events (user_id, seq, at, kind, data)
        VALUES (:user_id, :seq, :now, :kind, :data)
        """,
        {"user_id": user_id, "seq": seq, "now": now, "kind": kind, "data": text},
    )
    return UserEvent(user_id, seq, now, kind, msgspec.json.decode(text))


async def list_after(connection: Connection, user_id: int, seq: int, limit: int) -> list[UserEvent]:
    """Up to `limit` events after `seq`, in order."""
    return await connection.all(
        UserEvent, SELECT_AFTER, {"user_id": user_id, "seq": seq, "limit": limit}
    )


async def delete_before(tx: Transaction, at: float, limit: int) -> int:
    """Delete up to `limit` events of no task from before `at`; returns how many."""
    return await tx.execute(
        """
        DELETE FROM user_events WHERE (user_id, seq) IN (
            SELECT user_id, seq FROM user_events WHERE at < :at ORDER BY at LIMIT :limit
        )
        """,
        {"at": at, "limit": limit},
    )


def create_reader(db: Database) -> Callable[[int, int, int], Awaitable[list[UserEvent]]]:
    """`list_after` on a connection of its own, for the event bus."""

    async def read(user_id: int, seq: int, limit: int) -> list[UserEvent]:
        async with db.read() as connection:
            return await list_after(connection, user_id, seq, limit)

    return read


SELECT_AFTER = """
SELECT event.user_id AS user_id, event.user_seq AS seq, event.at AS at, event.kind AS kind,
       event.data AS data, event.task_id AS task_id, tasks.public_id AS task_public_id,
       event.seq AS task_seq
FROM task_events AS event JOIN tasks ON tasks.id = event.task_id
WHERE event.user_id = :user_id AND event.user_seq > :seq
UNION ALL
SELECT user_id, seq, at, kind, data, NULL, NULL, NULL
FROM user_events WHERE user_id = :user_id AND seq > :seq
ORDER BY seq LIMIT :limit
"""
