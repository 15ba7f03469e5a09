"""Rules for API keys: expiry, limit per user, limits inherited from a parent key."""

from msgspec.structs import replace

from appliance.domain.users import ApiKey, KeyStatus
from appliance.errors import Conflict, InvalidInput, InvalidToken, NotFound, TokenExpired
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import tokens
from appliance.store.database import Connection, Transaction
from appliance.store.tables import api_keys
from appliance.store.tables.api_keys import KeyRow, NewKey

KEYS_PER_USER = 100
UNKNOWN_KEY = "no such API key"
_EXPIRY_MAX_S = 100 * 365 * 86400.0


def build_new_key(
    key: str,
    user_id: int,
    *,
    name: str,
    scopes: tuple[str, ...],
    created_at: float,
    expires_at: float | None,
) -> NewKey:
    """The row for a new key. Only the hash of `key` is stored."""
    return NewKey(
        public_id=tokens.new_public_id("key"),
        user_id=user_id,
        parent_id=None,
        name=name,
        prefix=tokens.visible_prefix(key),
        key_hash=tokens.hash_api_key(key),
        scopes=scopes,
        created_at=created_at,
        expires_at=expires_at,
    )


async def insert_key(tx: Transaction, new: NewKey) -> ApiKey:
    """Insert a key; returns it without its secret."""
    row = await get_existing(tx, await api_keys.insert(tx, new))
    return row.to_api_key(new.created_at)


def log_created(key: ApiKey, username: str) -> None:
    """Log the creation of a key."""
    log_security_event(
        SecurityEvent.KEY_CREATED,
        key_id=key.public_id,
        user=username,
        scopes=" ".join(key.scopes),
        expires_at=key.expires_at,
    )


def require_active(status: KeyStatus) -> None:
    """Raises TokenExpired or InvalidToken unless the key is active."""
    if status is KeyStatus.EXPIRED:
        raise TokenExpired("this API key has expired; create a new one")
    if status is KeyStatus.REVOKED:
        raise InvalidToken("this API key was revoked; create a new one")
    if status is KeyStatus.INACTIVE:
        raise InvalidToken("this API key is inactive: its user is disabled")


def validate_expiry(expires_at: float | None, now: float) -> float | None:
    """`expires_at` in epoch seconds, None for a key without expiry. Raises InvalidInput."""
    if expires_at is None:
        return None
    if not now < expires_at <= now + _EXPIRY_MAX_S:
        raise InvalidInput.at("expires_at", "must be in the future, at most 100 years from now")
    return float(expires_at)


async def limit_to_parent(tx: Transaction, new: NewKey, parent_id: int) -> NewKey:
    """The new key with its expiry limited to that of its parent, the key that creates it.

    Raises InvalidToken or TokenExpired if the parent is not active, InvalidInput if the
    new key would outlive it.
    """
    parent = await api_keys.get(tx, parent_id)
    if parent is None:
        raise InvalidToken("this API key is not valid")
    require_active(parent.status(new.created_at))
    expires_at = parent.expires_at if new.expires_at is None else new.expires_at
    if parent.expires_at is not None and expires_at is not None and expires_at > parent.expires_at:
        raise InvalidInput.at(
            "expires_at", "must not be later than the expiry of the key that creates it"
        )
    return replace(new, parent_id=parent_id, expires_at=expires_at)


async def require_key_quota(tx: Transaction, user_id: int, now: float) -> None:
    """Raises Conflict if the user already has KEYS_PER_USER usable keys."""
    if await api_keys.count_usable(tx, user_id, now) >= KEYS_PER_USER:
        raise Conflict(
            f"limit of {KEYS_PER_USER} API keys per user reached; revoke one that is not needed",
            details={"limit": KEYS_PER_USER},
        )


async def get_existing(connection: Connection, key_id: int) -> KeyRow:
    """The key with this id. Raises NotFound."""
    row = await api_keys.get(connection, key_id)
    if row is None:
        raise NotFound(UNKNOWN_KEY)
    return row
