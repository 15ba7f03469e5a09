"""API keys: making, listing, revoking, and telling whose one is."""

import math
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from appliance.domain.users import ApiKey, KeyStats, KeyStatus, Principal, Role, Scope
from appliance.errors import InvalidToken, NotFound
from appliance.services.accounts import api_key_rules, permissions, tokens
from appliance.services.accounts.api_key_rules import UNKNOWN_KEY
from appliance.services.accounts.key_usage import KeyUsage
from appliance.services.accounts.principal_cache import AuthCache
from appliance.services.accounts.validation import valid_name
from appliance.store.sqlite.database import Database
from appliance.store.tables import api_keys, users
from appliance.store.tables.api_keys import KeyRow


class ApiKeys:
    """The keys of all users. A principal needs the scope `keys` to see or change its own."""

    def __init__(
        self, db: Database, cache: AuthCache, usage: KeyUsage, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._cache = cache
        self._usage = usage
        self._clock = clock

    async def authenticate(self, key: str) -> Principal:
        """Whose key this is. Raises InvalidToken or TokenExpired."""
        digest, now = tokens.key_hash(key), self._clock()
        principal = self._cache.get(digest, now) or await self._look_up(digest, now)
        if principal.key_id is not None:
            self._usage.note(principal.key_id, now)
        return principal

    async def create(
        self, principal: Principal, name: str, scopes: Sequence[str], expires_at: float | None
    ) -> tuple[ApiKey, str]:
        """A new key of the principal and its secret, which is not kept.

        Without `scopes` it gets the principal's own. A key can't make one that reaches
        further or lives longer than itself. Raises InvalidInput, Forbidden, Conflict.
        """
        permissions.require(principal, Scope.KEYS)
        key, now = tokens.new_key(), self._clock()
        new = api_key_rules.draft(
            key,
            principal.user.id,
            name=valid_name(name),
            scopes=permissions.granted(principal, scopes),
            created_at=now,
            expires_at=api_key_rules.valid_expiry(expires_at, now),
        )
        async with self._db.write() as tx:
            if principal.key_id is not None:
                new = await api_key_rules.within_parent(tx, new, principal.key_id)
            await api_key_rules.require_room(tx, principal.user.id, now)
            return await api_key_rules.store(tx, new), key

    async def of_principal(self, principal: Principal) -> list[ApiKey]:
        """The principal's keys, newest first, revoked and expired ones too."""
        permissions.require(principal, Scope.KEYS)
        return await self.of_user(principal.user.id)

    async def of_user(self, user_id: int) -> list[ApiKey]:
        async with self._db.read() as connection:
            return self._shown(await api_keys.of_user(connection, user_id))

    async def of_everybody(self) -> list[ApiKey]:
        async with self._db.read() as connection:
            return self._shown(await api_keys.all_keys(connection))

    async def stats(self, principal: Principal) -> KeyStats:
        keys = await self.of_principal(principal)
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
        """Revoke a key and those that were made with it. Again is no error.

        Administrators may revoke anybody's; for others, another user's key does not
        exist. Raises NotFound, Forbidden.
        """
        permissions.require(principal, Scope.KEYS)
        row = await self._find(public_id)
        is_admin = principal.user.role is Role.ADMIN and principal.may(Scope.ALL)
        if row.user_id != principal.user.id and not is_admin:
            raise NotFound(UNKNOWN_KEY)
        return await self._revoke(row)

    async def revoke_any(self, public_id: str) -> ApiKey:
        """Revoke anybody's key: for the box's own command line. Raises NotFound."""
        return await self._revoke(await self._find(public_id))

    async def _revoke(self, row: KeyRow) -> ApiKey:
        now = self._clock()
        with self._cache.forgetting(row.user_id):
            async with self._db.write() as tx:
                await api_keys.revoke(tx, row.id, now)
                revoked = await api_key_rules.required(tx, row.id)
        return self._shown([revoked])[0]

    async def _find(self, public_id: str) -> KeyRow:
        async with self._db.read() as connection:
            row = await api_keys.by_public_id(connection, public_id)
        if row is None:
            raise NotFound(UNKNOWN_KEY)
        return row

    async def _look_up(self, digest: str, now: float) -> Principal:
        generation = self._cache.generation
        async with self._db.read() as connection:
            row = await api_keys.by_hash(connection, digest)
            user = await users.get(connection, row.user_id) if row else None
        if row is None or user is None:
            raise InvalidToken("this API key is not valid")
        api_key_rules.require_active(row.status(now))
        scopes = permissions.key_scopes(user.role, row.scopes)
        principal = Principal(user=user, scopes=scopes, key_id=row.id, expires_at=row.expires_at)
        ends_at = math.inf if row.expires_at is None else row.expires_at
        self._cache.put(digest, principal, ends_at, generation)
        return principal

    def _shown(self, rows: Sequence[KeyRow]) -> list[ApiKey]:
        now = self._clock()
        counted = ((row.as_key(now), *self._usage.totals(row)) for row in rows)
        return [replace(key, use_count=uses, last_used_at=last) for key, uses, last in counted]
