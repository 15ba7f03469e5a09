"""A new API key: what is stored of it, and the rules that it has to meet."""

from msgspec.structs import replace

from appliance.domain.users import ApiKey, KeyStatus
from appliance.errors import Conflict, InvalidInput, InvalidToken, NotFound, TokenExpired
from appliance.services.accounts import tokens
from appliance.store.sqlite.database import Connection, Transaction
from appliance.store.tables import api_keys
from appliance.store.tables.api_keys import KeyRow, NewKey

KEYS_PER_USER = 100
UNKNOWN_KEY = "there is no such API key"
_EXPIRY_MAX_S = 100 * 365 * 86400.0


def draft(
    key: str,
    user_id: int,
    *,
    name: str,
    scopes: tuple[str, ...],
    created_at: float,
    expires_at: float | None,
) -> NewKey:
    """What is stored of a new key."""
    return NewKey(
        public_id=tokens.new_id("key"),
        user_id=user_id,
        parent_id=None,
        name=name,
        prefix=tokens.visible_prefix(key),
        key_hash=tokens.key_hash(key),
        scopes=scopes,
        created_at=created_at,
        expires_at=expires_at,
    )


async def store(tx: Transaction, new: NewKey) -> ApiKey:
    """Insert a key; returns it as its user sees it."""
    row = await required(tx, await api_keys.insert(tx, new))
    return row.as_key(new.created_at)


def require_active(status: KeyStatus) -> None:
    """Raises TokenExpired or InvalidToken for a key that can't be used."""
    if status is KeyStatus.EXPIRED:
        raise TokenExpired("this API key has expired; make a new one")
    if status is KeyStatus.REVOKED:
        raise InvalidToken("this API key was revoked; make a new one")
    if status is KeyStatus.INACTIVE:
        raise InvalidToken("this API key is inactive: its user is disabled")


def valid_expiry(expires_at: float | None, now: float) -> float | None:
    """When a key shall end, in epoch seconds. Raises InvalidInput."""
    if expires_at is None:
        return None
    if not now < expires_at <= now + _EXPIRY_MAX_S:
        raise InvalidInput.at("expires_at", "must be in the future, within 100 years")
    return float(expires_at)


async def within_parent(tx: Transaction, new: NewKey, parent_id: int) -> NewKey:
    """The new key, bound to the key that makes it, if that one is still good."""
    parent = await api_keys.get(tx, parent_id)
    if parent is None:
        raise InvalidToken("this API key is not valid")
    require_active(parent.status(new.created_at))
    expires_at = parent.expires_at if new.expires_at is None else new.expires_at
    if parent.expires_at is not None and expires_at is not None and expires_at > parent.expires_at:
        raise InvalidInput.at("expires_at", "must not be later than that of the key making it")
    return replace(new, parent_id=parent_id, expires_at=expires_at)


async def require_room(tx: Transaction, user_id: int, now: float) -> None:
    """Raises Conflict if the user has as many usable keys as a user may have."""
    if await api_keys.count_usable(tx, user_id, now) >= KEYS_PER_USER:
        raise Conflict(
            f"a user can have {KEYS_PER_USER} API keys; revoke one that is not needed",
            details={"limit": KEYS_PER_USER},
        )


async def required(connection: Connection, key_id: int) -> KeyRow:
    """The key of this id. Raises NotFound."""
    row = await api_keys.get(connection, key_id)
    if row is None:
        raise NotFound(UNKNOWN_KEY)
    return row
