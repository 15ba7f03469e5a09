"""Sessions: a login, its access tokens, and the refresh tokens that keep it alive."""

from collections.abc import Callable

import structlog

from appliance.domain.users import Principal, TokenPair, User
from appliance.errors import InvalidCredentials, InvalidToken, TokenExpired
from appliance.services.accounts import permissions, tokens
from appliance.services.accounts.principal_cache import AuthCache
from appliance.services.accounts.tokens import AccessClaims, AccessTokens
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import refresh_tokens, users
from appliance.store.tables.refresh_tokens import RefreshRow
from appliance.store.tables.users import Credentials

SESSIONS_PER_USER = 100
_ENDED = "this session has ended; log in again"
_NOT_VALID = "this refresh token is not valid; log in again"

log = structlog.get_logger()


class Sessions:
    """All sessions. One ends by logout, expiry, a password change, or a stolen token's use."""

    def __init__(
        self,
        db: Database,
        cache: AuthCache,
        access_tokens: AccessTokens,
        refresh_lifetime_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._db = db
        self._cache = cache
        self._access = access_tokens
        self._refresh_lifetime_s = refresh_lifetime_s
        self._clock = clock

    async def open(self, identifier: str, checked: Credentials) -> TokenPair:
        """A session for whoever just proved to be the user of these credentials.

        Raises InvalidCredentials if they changed since they were checked. Ends the
        user's oldest session when there are too many.
        """
        now = self._clock()
        with self._cache.forgetting(checked.id):
            async with self._db.write() as tx:
                user = await users.get(tx, checked.id)
                if user is None or await users.credentials(tx, identifier) != checked:
                    raise InvalidCredentials("the account was changed meanwhile; log in again")
                session_id, refresh = await self._start(tx, user, now)
        return self._pair(user, session_id, refresh, now)

    async def rotate(self, refresh_token: str) -> TokenPair:
        """New tokens for a refresh token, which is used up by it.

        A second use means that two parties hold the token: it ends the session, for
        both. Raises InvalidToken, TokenExpired.
        """
        digest, now = tokens.refresh_hash(refresh_token), self._clock()
        # A look before the write: nobody can keep the writer busy with made-up tokens.
        known = await self._find(digest)
        with self._cache.forgetting(known.user_id):
            async with self._db.write() as tx:
                row, user = await self._usable(tx, digest, now)
                fresh = await self._exchange(tx, row, now)
        if fresh is None:
            log.warning("refresh token used twice, session revoked", user=user.public_id)
            raise InvalidToken("this refresh token was used before; the session is revoked")
        return self._pair(user, row.session_public_id, fresh, now)

    async def authenticate(self, access_token: str) -> Principal:
        """Whose access token this is. Raises InvalidToken or TokenExpired."""
        # Known by its hash, a token's signature need not be computed for every request.
        digest, now = tokens.fingerprint(access_token), self._clock()
        known = self._cache.get(digest, now)
        if known:
            return known
        return await self._look_up(digest, self._access.read(access_token, now), now)

    async def end(self, principal: Principal, refresh_token: str | None) -> None:
        """End the principal's session, and that of its refresh token if one is given.

        A token that is unknown or another user's is ignored: the caller is logged out
        with it or without.
        """
        ended = {principal.session_id, await self._family(refresh_token)}
        user_id, now = principal.user.id, self._clock()
        with self._cache.forgetting(user_id):
            async with self._db.write() as tx:
                for session_id in ended - {None}:
                    await refresh_tokens.revoke_session(tx, str(session_id), user_id, now)

    async def _start(self, tx: Transaction, user: User, now: float) -> tuple[str, str]:
        public_id = tokens.new_id("ses")
        session_id = await refresh_tokens.open_session(
            tx,
            public_id=public_id,
            user_id=user.id,
            at=now,
            expires_at=now + self._refresh_lifetime_s,
        )
        await refresh_tokens.delete_oldest(tx, user.id, keep=SESSIONS_PER_USER)
        return public_id, await self._hand_out(tx, session_id, now)

    async def _usable(self, tx: Transaction, digest: str, now: float) -> tuple[RefreshRow, User]:
        row = await refresh_tokens.find(tx, digest)
        user = await users.get(tx, row.user_id) if row else None
        if row is None or user is None or user.disabled:
            raise InvalidToken(_NOT_VALID)
        if row.session_revoked_at is not None:
            raise InvalidToken(_ENDED)
        if row.expires_at <= now:
            raise TokenExpired("the refresh token has expired; log in again")
        return row, user

    async def _exchange(self, tx: Transaction, row: RefreshRow, now: float) -> str | None:
        """The next refresh token; None if this one was used before, and then nothing is left."""
        if await refresh_tokens.use(tx, row.id, now):
            return await self._hand_out(tx, row.session_id, now)
        await refresh_tokens.revoke_session(tx, row.session_public_id, row.user_id, now)
        return None

    async def _hand_out(self, tx: Transaction, session_id: int, now: float) -> str:
        token = tokens.new_refresh_token()
        await refresh_tokens.add(
            tx,
            session_id=session_id,
            token_hash=tokens.refresh_hash(token),
            at=now,
            expires_at=now + self._refresh_lifetime_s,
        )
        return token

    async def _find(self, digest: str) -> RefreshRow:
        async with self._db.read() as connection:
            row = await refresh_tokens.find(connection, digest)
        if row is None:
            raise InvalidToken(_NOT_VALID)
        return row

    async def _family(self, refresh_token: str | None) -> str | None:
        if not refresh_token or tokens.kind_of(refresh_token) is not tokens.Kind.REFRESH:
            return None
        try:
            return (await self._find(tokens.refresh_hash(refresh_token))).session_public_id
        except InvalidToken:
            return None

    async def _look_up(self, digest: str, claims: AccessClaims, now: float) -> Principal:
        generation = self._cache.generation
        async with self._db.read() as connection:
            session = await refresh_tokens.session(connection, claims.sid)
            user = await users.get(connection, session.user_id) if session else None
        if session is None or user is None or session.revoked_at is not None or user.disabled:
            raise InvalidToken(_ENDED)
        if user.public_id != claims.sub:
            raise InvalidToken(_ENDED)
        if session.expires_at <= now:
            raise TokenExpired(_ENDED)
        scopes = permissions.role_scopes(user.role)
        ends_at = min(claims.exp, session.expires_at)
        principal = Principal(
            user=user, scopes=scopes, session_id=session.public_id, expires_at=ends_at
        )
        self._cache.put(digest, principal, ends_at, generation)
        return principal

    def _pair(self, user: User, session_id: str, refresh_token: str, now: float) -> TokenPair:
        access, expires_at = self._access.issue(user.public_id, session_id, now)
        return TokenPair(access, refresh_token, expires_at, user)
