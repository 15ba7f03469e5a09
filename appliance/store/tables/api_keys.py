"""The table `api_keys`. Only the SHA-256 of a key is stored."""

from collections.abc import Sequence

from msgspec import Struct

from appliance.domain.users import ApiKey, KeyStatus
from appliance.store.database import Connection, Transaction
from appliance.store.rows import to_json

_SELECT = """
    SELECT k.id, k.public_id, k.user_id, k.name, k.prefix, k.scopes, k.created_at,
           k.expires_at, k.revoked_at, k.last_used_at, k.use_count, u.disabled AS user_disabled
    FROM api_keys AS k JOIN users AS u ON u.id = k.user_id
"""


class NewKey(Struct, frozen=True):
    """The values of a new key. `parent_id` is the key that created it, if a key did."""

    public_id: str
    user_id: int
    parent_id: int | None
    name: str
    prefix: str
    key_hash: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None


class KeyRow(Struct, frozen=True):
    """A key as stored; times are epoch seconds."""

    id: int
    public_id: str
    user_id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    use_count: int
    user_disabled: bool

    def status(self, now: float) -> KeyStatus:
        """Final states (revoked, expired) take precedence over INACTIVE, which can change back."""
        if self.revoked_at is not None:
            return KeyStatus.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyStatus.EXPIRED
        return KeyStatus.INACTIVE if self.user_disabled else KeyStatus.ACTIVE

    def to_api_key(self, now: float) -> ApiKey:
        return ApiKey(
            id=self.id,
            public_id=self.public_id,
            user_id=self.user_id,
            name=self.name,
            prefix=self.prefix,
            scopes=self.scopes,
            status=self.status(now),
            created_at=self.created_at,
            expires_at=self.expires_at,
            last_used_at=self.last_used_at,
            use_count=self.use_count,
        )


class KeyUse(Struct, frozen=True):
    """Uses of a key since the last `add_uses`, and the time of the last one."""

    key_id: int
    count: int
    last_used_at: float


async def insert(tx: Transaction, new: NewKey) -> int:
    """Store a key; returns its id."""
    key_id = await tx.scalar(
        """
        INSERT INTO api_keys (public_id, user_id, parent_id, name, prefix, key_hash, scopes,
                              created_at, expires_at)
        VALUES (:public_id, :user_id, :parent_id, :name, :prefix, :key_hash, :scopes,
                :created_at, :expires_at)
        RETURNING id
        """,
        {
            "public_id": new.public_id,
            "user_id": new.user_id,
            "parent_id": new.parent_id,
            "name": new.name,
            "prefix": new.prefix,
            "key_hash": new.key_hash,
            "scopes": to_json(new.scopes),
            "created_at": new.created_at,
            "expires_at": new.expires_at,
        },
    )
    return int(key_id)


async def get(connection: Connection, key_id: int) -> KeyRow | None:
    return await connection.one(KeyRow, f"{_SELECT} WHERE k.id = :id", {"id": key_id})


async def get_by_hash(connection: Connection, key_hash: str) -> KeyRow | None:
    return await connection.one(KeyRow, f"{_SELECT} WHERE k.key_hash = :hash", {"hash": key_hash})


async def get_by_public_id(connection: Connection, public_id: str) -> KeyRow | None:
    return await connection.one(
        KeyRow, f"{_SELECT} WHERE k.public_id = :public_id", {"public_id": public_id}
    )


async def list_for_user(connection: Connection, user_id: int) -> list[KeyRow]:
    """All keys of a user, newest first."""
    return await connection.all(
        KeyRow, f"{_SELECT} WHERE k.user_id = :user_id ORDER BY k.id DESC", {"user_id": user_id}
    )


async def list_all(connection: Connection) -> list[KeyRow]:
    """The keys of all users, newest first."""
    return await connection.all(KeyRow, f"{_SELECT} ORDER BY k.id DESC")


async def count_usable(connection: Connection, user_id: int, at: float) -> int:
    """How many keys of a user are neither revoked nor expired."""
    count = await connection.scalar(
        """
        SELECT count(*) FROM api_keys
        WHERE user_id = :user_id AND revoked_at IS NULL
          AND (expires_at IS NULL OR expires_at > :at)
        """,
        {"user_id": user_id, "at": at},
    )
    return int(count)


async def revoke(tx: Transaction, key_id: int, at: float) -> None:
    """Revoke a key and every key created with it, recursively."""
    await tx.execute(
        """
        WITH RECURSIVE family (id) AS (
            SELECT id FROM api_keys WHERE id = :id
            UNION
            SELECT child.id FROM api_keys AS child JOIN family ON child.parent_id = family.id
        )
        UPDATE api_keys SET revoked_at = :at
        WHERE id IN (SELECT id FROM family) AND revoked_at IS NULL
        """,
        {"id": key_id, "at": at},
    )


async def delete_ended(tx: Transaction, before: float) -> int:
    """Delete keys that were revoked or expired before a time; returns how many."""
    return await tx.execute(
        "DELETE FROM api_keys WHERE revoked_at < :before OR expires_at < :before",
        {"before": before},
    )


async def delete_unusable(tx: Transaction, user_id: int, at: float) -> None:
    """Delete a user's revoked and expired keys."""
    await tx.execute(
        """
        DELETE FROM api_keys WHERE user_id = :user_id
          AND (revoked_at IS NOT NULL OR expires_at <= :at)
        """,
        {"user_id": user_id, "at": at},
    )


async def delete_oldest(tx: Transaction, user_id: int, keep: int) -> None:
    """Delete all but the `keep` newest keys of a user."""
    await tx.execute(
        """
        DELETE FROM api_keys WHERE user_id = :user_id AND id NOT IN (
            SELECT id FROM api_keys WHERE user_id = :user_id ORDER BY id DESC LIMIT :keep
        )
        """,
        {"user_id": user_id, "keep": keep},
    )


async def add_uses(tx: Transaction, uses: Sequence[KeyUse]) -> None:
    """Add uses to the keys' counts."""
    for use in uses:
        await tx.execute(
            """
            UPDATE api_keys
            SET use_count = use_count + :count,
                last_used_at = CASE
                    WHEN last_used_at > :at THEN last_used_at ELSE :at
                END
            WHERE id = :id
            """,
            {"id": use.key_id, "count": use.count, "at": use.last_used_at},
        )
