"""The table `rate_events`: the events that rate windows count."""

from msgspec import Struct

from appliance.store.database import Connection, Transaction


class EventCount(Struct, frozen=True):
    """The events of a key since some time; `oldest_at` and `newest_at` are None for no events."""

    count: int
    oldest_at: float | None
    newest_at: float | None


class RateEvent(Struct, frozen=True):
    """`id` is used again once the event is deleted; with its time it is unique."""

    id: int
    at: float


async def count(
    connection: Connection, window: str, key_hash: bytes, *, after: float, until: float
) -> EventCount:
    """The events of a key after a time, and not after another."""
    found = await connection.one(
        EventCount,
        """
        SELECT COUNT(*) AS count, MIN(at) AS oldest_at, MAX(at) AS newest_at FROM rate_events
        WHERE window = :window AND key_hash = :key_hash AND at > :after AND at <= :until
        """,
        {"window": window, "key_hash": key_hash, "after": after, "until": until},
    )
    return found or EventCount(0, None, None)


async def add(tx: Transaction, window: str, key_hash: bytes, now: float) -> RateEvent:
    """Add an event."""
    event_id = await tx.scalar(
        """
        INSERT INTO rate_events (window, key_hash, at) VALUES (:window, :key_hash, :now)
        RETURNING id
        """,
        {"window": window, "key_hash": key_hash, "now": now},
    )
    return RateEvent(int(event_id), now)


async def delete(tx: Transaction, window: str, event: RateEvent) -> None:
    """Delete one event, if it exists."""
    await tx.execute(
        "DELETE FROM rate_events WHERE window = :window AND id = :id AND at = :at",
        {"window": window, "id": event.id, "at": event.at},
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
