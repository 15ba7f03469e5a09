"""Login with a password: throttle, verification, rehash, new session."""

from appliance.domain.users import TokenPair
from appliance.errors import Forbidden, InvalidCredentials, RateLimited
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import validation
from appliance.services.accounts.login_throttle import LoginAttempt, LoginThrottle
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.sessions import Sessions
from appliance.store.database import Database
from appliance.store.tables import users
from appliance.store.tables.users import Credentials

# No username or email is longer; bounds the keys that the throttle stores.
_IDENTIFIER_MAX_CHARACTERS = 254


class PasswordLogin:
    """Verifies passwords, limited by the login throttle, and opens sessions."""

    def __init__(
        self, db: Database, passwords: Passwords, throttle: LoginThrottle, sessions: Sessions
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._throttle = throttle
        self._sessions = sessions

    async def log_in(self, identifier: str, password: str, address: str) -> TokenPair:
        """Open a session for a username or email (case-insensitive) and a password.

        An unknown user takes as long as a wrong password. Raises InvalidCredentials,
        RateLimited, Forbidden (password correct, account disabled), Unavailable (too many
        logins at once).
        """
        identifier = validation.canonicalize(identifier[:_IDENTIFIER_MAX_CHARACTERS])
        credentials = await self._find_credentials(identifier)
        # An unknown name isn't logged: people type passwords into that field.
        facts = {"user": identifier if credentials else None, "client": address}
        try:
            tokens = await self._open_session(identifier, credentials, password, address)
        except RateLimited:
            log_security_event(SecurityEvent.LOGIN_THROTTLED, **facts)
            raise
        except (InvalidCredentials, Forbidden) as error:
            log_security_event(SecurityEvent.LOGIN_FAILED, **facts, reason=error.code)
            raise
        log_security_event(SecurityEvent.LOGIN_SUCCEEDED, **facts)
        return tokens

    async def _open_session(
        self, identifier: str, credentials: Credentials | None, password: str, address: str
    ) -> TokenPair:
        attempt = LoginAttempt(credentials.id if credentials else None, identifier, address)
        await self._throttle.check(attempt)
        matches = await self._verify(credentials, password)
        if credentials is None or not matches:
            await self._throttle.record_failure(attempt)
            raise InvalidCredentials("the email, username or password is wrong")
        await self._throttle.record_success(attempt, credentials.id)
        if credentials.disabled:
            raise Forbidden("this account is disabled; ask the administrator")
        return await self._sessions.open(
            identifier, await self._rehash_if_outdated(credentials, password)
        )

    async def _find_credentials(self, identifier: str) -> Credentials | None:
        if "\0" in identifier:
            return None
        async with self._db.read() as connection:
            return await users.get_credentials(connection, identifier)

    async def _verify(self, credentials: Credentials | None, password: str) -> bool:
        # No account can have this password: skip the hashing, whether the user exists or not.
        if not validation.is_possible_password(password):
            return False
        password_hash = credentials.password_hash if credentials else None
        return await self._passwords.verify(password_hash, password)

    async def _rehash_if_outdated(self, credentials: Credentials, password: str) -> Credentials:
        """The credentials, with a new hash if the old one has outdated parameters."""
        old = credentials.password_hash
        if old is None or not self._passwords.is_outdated(old):
            return credentials
        new = await self._passwords.hash(password)
        async with self._db.write() as tx:
            await users.renew_password_hash(tx, credentials.id, old, new)
        return Credentials(credentials.id, new, credentials.disabled)
