"""The table `rate_events`: the events that rate windows count."""

from msgspec import Struct

from appliance.store.sqlite.connection import Connection, Transaction


class EventCount(Struct, frozen=True):
    """The events of a key since some time; `oldest_at` and `newest_at` are None for no events."""

    count: int
    oldest_at: float | None
    newest_at: float | None


async def count(
    connection: Connection, window: str, key_hash: bytes, *, after: float
) -> EventCount:
    """The events of a key after a time."""
    found = await connection.one(
        EventCount,
        """
        SELECT COUNT(*) AS count, MIN(at) AS oldest_at, MAX(at) AS newest_at FROM rate_events
        WHERE window = :window AND key_hash = :key_hash AND at > :after
        """,
        {"window": window, "key_hash": key_hash, "after": after},
    )
    return found or EventCount(0, None, None)


async def add(tx: Transaction, window: str, key_hash: bytes, now: float) -> None:
    await tx.execute(
        "INSERT INTO rate_events (window, key_hash, at) VALUES (:window, :key_hash, :now)",
        {"window": window, "key_hash": key_hash, "now": now},
    )


async def delete_key(tx: Transaction, window: str, key_hash: bytes) -> None:
    """Delete all events of a key."""
    await tx.execute(
        "DELETE FROM rate_events WHERE window = :window AND key_hash = :key_hash",
        {"window": window, "key_hash": key_hash},
    )


async def delete_until(tx: Transaction, window: str, time: float) -> int:
    """Delete the events of all keys up to a time; returns how many."""
    return await tx.execute(
        "DELETE FROM rate_events WHERE window = :window AND at <= :time",
        {"window": window, "time": time},
    )
