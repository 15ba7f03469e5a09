"""Sessions: open, rotate refresh tokens, authenticate access tokens, end."""

from collections.abc import Callable

from appliance.domain.users import Principal, TokenPair, User
from appliance.errors import InvalidCredentials, InvalidToken, TokenExpired
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import permissions, tokens
from appliance.services.accounts.principal_cache import PrincipalCache
from appliance.services.accounts.tokens import AccessClaims, AccessTokens
from appliance.store.database import Database, Transaction
from appliance.store.tables import refresh_tokens, users
from appliance.store.tables.refresh_tokens import RefreshRow
from appliance.store.tables.users import Credentials

SESSIONS_PER_USER = 100
_ENDED = "this session has ended; log in again"
_INVALID = "this refresh token is not valid; log in again"


class Sessions:
    """Sessions of all users.

    A session is opened by a login and has one valid refresh token at a time. It ends by
    logout, expiry, a password change, disabling the user, or reuse of a refresh token.
    """

    def __init__(
        self,
        db: Database,
        cache: PrincipalCache,
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
        """Open a session for the user of `checked`, whose password was just verified.

        Deletes the user's oldest sessions above SESSIONS_PER_USER. Raises
        InvalidCredentials if the credentials changed since they were verified.
        """
        now = self._clock()
        with self._cache.invalidate_after(checked.id):
            async with self._db.write() as tx:
                user = await users.get(tx, checked.id)
                if user is None or await users.get_credentials(tx, identifier) != checked:
                    raise InvalidCredentials(
                        "the account was changed during the login; log in again"
                    )
                session_id, refresh = await self._insert_session(tx, user, now)
        return self._build_token_pair(user, session_id, refresh, now)

    async def rotate(self, refresh_token: str) -> TokenPair:
        """Exchange a refresh token, which works once, for a new pair of tokens.

        A second use means that two parties hold the token: the session is revoked for
        both (RFC 9700, section 4.14). Raises InvalidToken, TokenExpired.
        """
        digest, now = tokens.hash_refresh_token(refresh_token), self._clock()
        # Read first: unknown tokens must not occupy the writer.
        token = await self._find_token(digest)
        with self._cache.invalidate_after(token.user_id):
            async with self._db.write() as tx:
                row, user = await self._require_usable(tx, digest, now)
                successor = await self._exchange(tx, row, now)
        if successor is None:
            log_security_event(
                SecurityEvent.SESSION_REVOKED, user=user.username, reason="refresh token used twice"
            )
            raise InvalidToken("this refresh token was used before; the session is revoked")
        return self._build_token_pair(user, row.session_public_id, successor, now)

    async def authenticate(self, access_token: str) -> Principal:
        """The principal of an access token. Raises InvalidToken or TokenExpired."""
        # A cached token is found by its hash, without verifying its signature again.
        digest, now = tokens.fingerprint(access_token), self._clock()
        cached = self._cache.get(digest, now)
        if cached:
            return cached
        return await self._load_principal(digest, self._access.verify(access_token, now), now)

    async def is_valid(self, session_id: str) -> bool:
        """Whether the session is open and its user may use it."""
        async with self._db.read() as connection:
            session = await refresh_tokens.get_session(connection, session_id)
            user = await users.get(connection, session.user_id) if session else None
        if session is None or user is None or user.disabled or session.revoked_at is not None:
            return False
        return session.expires_at > self._clock()

    async def end(self, principal: Principal, refresh_token: str | None) -> None:
        """End the principal's session, and the session of `refresh_token` if given.

        A token that is unknown or belongs to another user is ignored.
        """
        session_ids = {principal.session_id, await self._find_session_id(refresh_token)}
        user_id, now = principal.user.id, self._clock()
        with self._cache.invalidate_after(user_id):
            async with self._db.write() as tx:
                for session_id in session_ids - {None}:
                    await refresh_tokens.revoke_session(tx, str(session_id), user_id, now)

    async def _insert_session(self, tx: Transaction, user: User, now: float) -> tuple[str, str]:
        public_id = tokens.new_public_id("ses")
        session_id = await refresh_tokens.open_session(
            tx,
            public_id=public_id,
            user_id=user.id,
            at=now,
            expires_at=now + self._refresh_lifetime_s,
        )
        await refresh_tokens.delete_oldest_sessions(tx, user.id, keep=SESSIONS_PER_USER)
        return public_id, await self._issue_refresh_token(tx, session_id, now)

    async def _require_usable(
        self, tx: Transaction, digest: str, now: float
    ) -> tuple[RefreshRow, User]:
        row = await refresh_tokens.get(tx, digest)
        user = await users.get(tx, row.user_id) if row else None
        if row is None or user is None or user.disabled:
            raise InvalidToken(_INVALID)
        if row.session_revoked_at is not None:
            raise InvalidToken(_ENDED)
        if row.expires_at <= now:
            raise TokenExpired("the refresh token has expired; log in again")
        return row, user

    async def _exchange(self, tx: Transaction, row: RefreshRow, now: float) -> str | None:
        """The next refresh token; None, and the session revoked, if this one was used before."""
        if await refresh_tokens.mark_used(tx, row.id, now):
            return await self._issue_refresh_token(tx, row.session_id, now)
        await refresh_tokens.revoke_session(tx, row.session_public_id, row.user_id, now)
        return None

    async def _issue_refresh_token(self, tx: Transaction, session_id: int, now: float) -> str:
        token = tokens.new_refresh_token()
        await refresh_tokens.add(
            tx,
            session_id=session_id,
            token_hash=tokens.hash_refresh_token(token),
            at=now,
            expires_at=now + self._refresh_lifetime_s,
        )
        return token

    async def _find_token(self, digest: str) -> RefreshRow:
        async with self._db.read() as connection:
            row = await refresh_tokens.get(connection, digest)
        if row is None:
            raise InvalidToken(_INVALID)
        return row

    async def _find_session_id(self, refresh_token: str | None) -> str | None:
        if (
            not refresh_token
            or tokens.credential_kind(refresh_token) is not tokens.CredentialKind.REFRESH
        ):
            return None
        try:
            return (
                await self._find_token(tokens.hash_refresh_token(refresh_token))
            ).session_public_id
        except InvalidToken:
            return None

    async def _load_principal(self, digest: str, claims: AccessClaims, now: float) -> Principal:
        generation = self._cache.generation
        async with self._db.read() as connection:
            session = await refresh_tokens.get_session(connection, claims.sid)
            user = await users.get(connection, session.user_id) if session else None
        if session is None or user is None or session.revoked_at is not None or user.disabled:
            raise InvalidToken(_ENDED)
        if user.public_id != claims.sub:
            raise InvalidToken(_ENDED)
        if session.expires_at <= now:
            raise TokenExpired(_ENDED)
        scopes = permissions.scopes_of_role(user.role)
        ends_at = min(claims.exp, session.expires_at)
        principal = Principal(
            user=user, scopes=scopes, session_id=session.public_id, expires_at=ends_at
        )
        self._cache.put(digest, principal, ends_at, generation)
        return principal

    def _build_token_pair(
        self, user: User, session_id: str, refresh_token: str, now: float
    ) -> TokenPair:
        access, expires_at = self._access.issue(user.public_id, session_id, now)
        return TokenPair(access, refresh_token, expires_at, user)
