"""The tables `sessions` and `refresh_tokens`. Only hashes of tokens are stored."""

from msgspec import Struct

from appliance.store.database import Connection, Transaction


class SessionRow(Struct, frozen=True):
    """A session as stored; times are epoch seconds."""

    id: int
    public_id: str
    user_id: int
    expires_at: float
    revoked_at: float | None


class RefreshRow(Struct, frozen=True):
    """A refresh token and the state of its session."""

    id: int
    expires_at: float
    used_at: float | None
    session_id: int
    session_public_id: str
    session_revoked_at: float | None
    user_id: int


async def open_session(
    tx: Transaction, *, public_id: str, user_id: int, at: float, expires_at: float
) -> int:
    """Start a session; returns its id."""
    session_id = await tx.scalar(
        """
        INSERT INTO sessions (public_id, user_id, created_at, expires_at)
        VALUES (:public_id, :user_id, :at, :expires_at)
        RETURNING id
        """,
        {"public_id": public_id, "user_id": user_id, "at": at, "expires_at": expires_at},
    )
    return int(session_id)


async def get_session(connection: Connection, public_id: str) -> SessionRow | None:
    return await connection.one(
        SessionRow,
        """
        SELECT id, public_id, user_id, expires_at, revoked_at FROM sessions
        WHERE public_id = :public_id
        """,
        {"public_id": public_id},
    )


async def add(
    tx: Transaction, *, session_id: int, token_hash: str, at: float, expires_at: float
) -> None:
    """Store a new token and extend its session to the token's expiry."""
    params = {"session_id": session_id, "hash": token_hash, "at": at, "expires_at": expires_at}
    await tx.execute(
        """
        INSERT INTO refresh_tokens (session_id, token_hash, created_at, expires_at)
        VALUES (:session_id, :hash, :at, :expires_at)
        """,
        params,
    )
    await tx.execute(
        "UPDATE sessions SET expires_at = :expires_at WHERE id = :session_id",
        {"session_id": session_id, "expires_at": expires_at},
    )


async def get(connection: Connection, token_hash: str) -> RefreshRow | None:
    return await connection.one(
        RefreshRow,
        """
        SELECT token.id, token.expires_at, token.used_at, token.session_id,
               session.public_id AS session_public_id,
               session.revoked_at AS session_revoked_at, session.user_id
        FROM refresh_tokens AS token
        JOIN sessions AS session ON session.id = token.session_id
        WHERE token.token_hash = :hash
        """,
        {"hash": token_hash},
    )


async def mark_used(tx: Transaction, token_id: int, at: float) -> bool:
    """Mark a token as used; False if it already was."""
    changed = await tx.execute(
        "UPDATE refresh_tokens SET used_at = :at WHERE id = :id AND used_at IS NULL",
        {"id": token_id, "at": at},
    )
    return changed == 1


async def revoke_session(tx: Transaction, public_id: str, user_id: int, at: float) -> None:
    """Revoke a session of this user; does nothing if it is already revoked."""
    await tx.execute(
        """
        UPDATE sessions SET revoked_at = :at
        WHERE public_id = :public_id AND user_id = :user_id AND revoked_at IS NULL
        """,
        {"public_id": public_id, "user_id": user_id, "at": at},
    )


async def revoke_sessions(tx: Transaction, user_id: int, at: float) -> None:
    """Revoke all sessions of a user."""
    await tx.execute(
        "UPDATE sessions SET revoked_at = :at WHERE user_id = :user_id AND revoked_at IS NULL",
        {"user_id": user_id, "at": at},
    )


async def delete_oldest_sessions(tx: Transaction, user_id: int, keep: int) -> int:
    """Delete all but the `keep` newest sessions of a user; returns how many."""
    return await tx.execute(
        """
        DELETE FROM sessions WHERE user_id = :user_id AND id NOT IN (
            SELECT id FROM sessions WHERE user_id = :user_id ORDER BY id DESC LIMIT :keep
        )
        """,
        {"user_id": user_id, "keep": keep},
    )


async def delete_expired(tx: Transaction, before: float) -> int:
    """Delete sessions and used tokens that expired before a time; returns how many rows.

    Used tokens are kept until they expire, to detect their reuse.
    """
    sessions = await tx.execute(
        "DELETE FROM sessions WHERE expires_at < :before", {"before": before}
    )
    tokens = await tx.execute(
        "DELETE FROM refresh_tokens WHERE expires_at < :before AND used_at IS NOT NULL",
        {"before": before},
    )
    return sessions + tokens
