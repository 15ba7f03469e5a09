"""Logging in: who claims to be whom, from where, and whether that is so."""

from appliance.domain.users import TokenPair
from appliance.errors import Forbidden, InvalidCredentials
from appliance.services.accounts import validation
from appliance.services.accounts.login_throttle import LoginThrottle
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.sessions import Sessions
from appliance.store.sqlite.database import Database
from appliance.store.tables import users
from appliance.store.tables.users import Credentials

# Longer identifiers belong to nobody; what is counted of them stays small.
_IDENTIFIER_MAX_CHARACTERS = 254


class Logins:
    """Checks passwords, as often as the throttle allows."""

    def __init__(
        self, db: Database, passwords: Passwords, throttle: LoginThrottle, sessions: Sessions
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._throttle = throttle
        self._sessions = sessions

    async def login(self, identifier: str, password: str, address: str) -> TokenPair:
        """Tokens for the user with this email or username, in any case, and this password.

        An unknown user costs what a known one does. Raises InvalidCredentials,
        RateLimited, Forbidden (the password is right, the account disabled),
        Unavailable (too many at once).
        """
        identifier = validation.canonical(identifier[:_IDENTIFIER_MAX_CHARACTERS])
        found = await self._find(identifier)
        account = f"user {found.id}" if found else f"name {identifier}"
        self._throttle.check(account, address)
        right = await self._is_right(found, password)
        self._throttle.check(account, address)
        if found is None or not right:
            self._throttle.failed(account, address)
            raise InvalidCredentials("the email, username or password is wrong")
        self._throttle.succeeded(account)
        if found.disabled:
            raise Forbidden("this account is disabled; ask the box's administrator")
        return await self._sessions.open(identifier, await self._strengthened(found, password))

    async def _find(self, identifier: str) -> Credentials | None:
        async with self._db.read() as connection:
            return await users.credentials(connection, identifier)

    async def _is_right(self, found: Credentials | None, password: str) -> bool:
        # A password that nobody can have is not worth the work, whoever is asked for.
        if not validation.is_possible_password(password):
            return False
        return await self._passwords.verify(found.password_hash if found else None, password)

    async def _strengthened(self, found: Credentials, password: str) -> Credentials:
        """The credentials, with a new hash if the old one was made with other parameters."""
        old = found.password_hash
        if old is None or not self._passwords.is_outdated(old):
            return found
        new = await self._passwords.hash(password)
        async with self._db.write() as tx:
            await users.renew_password_hash(tx, found.id, old, new)
        return Credentials(found.id, new, found.disabled)
