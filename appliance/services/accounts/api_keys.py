"""API keys: create, list, revoke, authenticate."""

import math
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from appliance.domain.users import ApiKey, KeyStats, KeyStatus, Principal, Scope
from appliance.errors import InvalidToken, NotFound
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import api_key_rules, permissions, tokens
from appliance.services.accounts.api_key_rules import UNKNOWN_KEY
from appliance.services.accounts.key_usage import KeyUsage
from appliance.services.accounts.principal_cache import PrincipalCache
from appliance.services.accounts.validation import validate_name
from appliance.store.database import Database
from appliance.store.tables import api_keys, users
from appliance.store.tables.api_keys import KeyRow


class ApiKeys:
    """API keys of all users.

    Methods that take a principal require the scope `keys`. The other methods check no
    permission; they are for authentication and the command line.
    """

    def __init__(
        self, db: Database, cache: PrincipalCache, usage: KeyUsage, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._cache = cache
        self._usage = usage
        self._clock = clock

    async def authenticate(self, key: str) -> Principal:
        """The principal of an API key. Raises InvalidToken or TokenExpired."""
        digest, now = tokens.hash_api_key(key), self._clock()
        principal = self._cache.get(digest, now) or await self._load_principal(digest, now)
        if principal.key_id is not None:
            self._usage.record(principal.key_id, now)
        return principal

    async def is_valid(self, key_id: int) -> bool:
        """Whether the key exists and is active."""
        async with self._db.read() as connection:
            row = await api_keys.get(connection, key_id)
        return row is not None and row.status(self._clock()) is KeyStatus.ACTIVE

    async def create(
        self, principal: Principal, name: str, scopes: Sequence[str], expires_at: float | None
    ) -> tuple[ApiKey, str]:
        """Create a key for the principal; returns it and its secret, which is not stored.

        Empty `scopes` means all scopes of the principal. A key created by another key gets
        at most the scopes and the lifetime of that key. Raises InvalidInput, Forbidden,
        Conflict.
        """
        permissions.require_scope(principal, Scope.KEYS)
        key, now = tokens.new_api_key(), self._clock()
        new = api_key_rules.build_new_key(
            key,
            principal.user.id,
            name=validate_name(name),
            scopes=permissions.grant_scopes(principal, scopes),
            created_at=now,
            expires_at=api_key_rules.validate_expiry(expires_at, now),
        )
        async with self._db.write() as tx:
            if principal.key_id is not None:
                new = await api_key_rules.limit_to_parent(tx, new, principal.key_id)
            await api_key_rules.require_key_quota(tx, principal.user.id, now)
            created = await api_key_rules.insert_key(tx, new)
        api_key_rules.log_created(created, principal.user.username)
        return created, key

    async def list_own(self, principal: Principal) -> list[ApiKey]:
        """The principal's keys, newest first, including revoked and expired ones."""
        permissions.require_scope(principal, Scope.KEYS)
        return await self.list_for_user(principal.user.id)

    async def list_for_user(self, user_id: int) -> list[ApiKey]:
        async with self._db.read() as connection:
            return self._with_usage(await api_keys.list_for_user(connection, user_id))

    async def list_all(self) -> list[ApiKey]:
        async with self._db.read() as connection:
            return self._with_usage(await api_keys.list_all(connection))

    async def stats(self, principal: Principal) -> KeyStats:
        keys = await self.list_own(principal)
        states = [key.status for key in keys]
        uses = [key.last_used_at for key in keys if key.last_used_at is not None]
        return KeyStats(
            total=len(keys),
            active=states.count(KeyStatus.ACTIVE),
            inactive=states.count(KeyStatus.INACTIVE),
            expired=states.count(KeyStatus.EXPIRED),
            revoked=states.count(KeyStatus.REVOKED),
            uses=sum(key.use_count for key in keys),
            last_used_at=max(uses, default=None),
        )

    async def revoke(self, principal: Principal, public_id: str) -> ApiKey:
        """Revoke a key and every key created with it, recursively. Idempotent.

        Administrators may revoke the keys of any user; everyone else gets NotFound for
        another user's key. Raises NotFound, Forbidden.
        """
        permissions.require_scope(principal, Scope.KEYS)
        row = await self._get_by_public_id(public_id)
        if row.user_id != principal.user.id and not permissions.is_administrator(principal):
            raise NotFound(UNKNOWN_KEY)
        return await self._revoke(row, principal.user.username)

    async def revoke_any(self, public_id: str) -> ApiKey:
        """Revoke the key of any user, without a permission check. Raises NotFound."""
        return await self._revoke(await self._get_by_public_id(public_id), None)

    async def _revoke(self, row: KeyRow, revoked_by: str | None) -> ApiKey:
        now = self._clock()
        with self._cache.invalidate_after(row.user_id):
            async with self._db.write() as tx:
                await api_keys.revoke(tx, row.id, now)
                revoked = await api_key_rules.get_existing(tx, row.id)
        log_security_event(
            SecurityEvent.KEY_REVOKED,
            key_id=row.public_id,
            owner_id=row.user_id,
            revoked_by=revoked_by,
        )
        return self._with_usage([revoked])[0]

    async def _get_by_public_id(self, public_id: str) -> KeyRow:
        if "\0" in public_id:
            raise NotFound(UNKNOWN_KEY)
        async with self._db.read() as connection:
            row = await api_keys.get_by_public_id(connection, public_id)
        if row is None:
            raise NotFound(UNKNOWN_KEY)
        return row

    async def _load_principal(self, digest: str, now: float) -> Principal:
        generation = self._cache.generation
        async with self._db.read() as connection:
            row = await api_keys.get_by_hash(connection, digest)
            user = await users.get(connection, row.user_id) if row else None
        if row is None or user is None:
            raise InvalidToken("this API key is not valid")
        api_key_rules.require_active(row.status(now))
        scopes = permissions.scopes_of_key(user.role, row.scopes)
        principal = Principal(
            user=user,
            scopes=scopes,
            key_id=row.id,
            key_prefix=row.prefix,
            expires_at=row.expires_at,
        )
        ends_at = math.inf if row.expires_at is None else row.expires_at
        self._cache.put(digest, principal, ends_at, generation)
        return principal

    def _with_usage(self, rows: Sequence[KeyRow]) -> list[ApiKey]:
        now = self._clock()
        counted = ((row.to_api_key(now), *self._usage.totals(row)) for row in rows)
        return [replace(key, use_count=uses, last_used_at=last) for key, uses, last in counted]
