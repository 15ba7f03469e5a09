"""The table `login_networks`: the networks from which each user has logged in."""

from appliance.store.database import Connection, Transaction


async def is_known(connection: Connection, user_id: int | None, network: str) -> bool:
    found = await connection.scalar(
        "SELECT 1 FROM login_networks WHERE user_id = :user_id AND network = :network",
        {"user_id": user_id, "network": network},
    )
    return found is not None


async def remember(tx: Transaction, user_id: int, network: str, now: float, keep: int) -> None:
    """Store a login from a network, and delete all but the user's `keep` latest networks."""
    params = {"user_id": user_id, "network": network, "now": now, "keep": keep}
    await tx.execute(
        """
        INSERT INTO login_networks (user_id, network, last_at) VALUES (:user_id, :network, :now)
        ON CONFLICT (user_id, network) DO UPDATE SET last_at = excluded.last_at
        """,
        params,
    )
    await tx.execute(
        """
        DELETE FROM login_networks WHERE user_id = :user_id AND network NOT IN (
            SELECT network FROM login_networks WHERE user_id = :user_id
            ORDER BY last_at DESC LIMIT :keep
        )
        """,
        params,
    )


async def delete_before(tx: Transaction, time: float) -> int:
    """Delete the networks last used before a time; returns how many."""
    return await tx.execute("DELETE FROM login_networks WHERE last_at < :time", {"time": time})
