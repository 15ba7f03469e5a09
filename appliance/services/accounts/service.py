"""Accounts: who may use the box, how they log in, and what proves it afterwards."""

import time
from collections.abc import Callable, Sequence

from appliance.config.settings import AuthSettings
from appliance.domain.users import (
    DEFAULT_PLAN,
    ApiKey,
    KeyStats,
    Principal,
    Role,
    TokenPair,
    User,
)
from appliance.errors import InvalidToken, Unauthenticated
from appliance.services.accounts import tokens
from appliance.services.accounts.api_keys import ApiKeys
from appliance.services.accounts.dev_keys import DevKeys
from appliance.services.accounts.key_usage import KeyUsage
from appliance.services.accounts.login import Logins
from appliance.services.accounts.login_throttle import LoginThrottle
from appliance.services.accounts.maintenance import AccountUpkeep
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.principal_cache import AuthCache
from appliance.services.accounts.sessions import Sessions
from appliance.services.accounts.tokens import AccessTokens, Kind
from appliance.services.accounts.users import UserAccounts
from appliance.store.sqlite.database import Database

_MINUTE_S = 60.0
_DAY_S = 86400.0


class AccountService:
    """Everything about users and their credentials, put together.

    `clock` gives epoch seconds. Between `start` and `close` the uses of keys are stored
    every few seconds and what has expired is forgotten. `users` and `keys` are for the
    box's own command line: they ask for no permission where they take no principal.
    """

    def __init__(
        self,
        db: Database,
        settings: AuthSettings,
        jwt_secret: bytes,
        *,
        clock: Callable[[], float] = time.time,
        passwords: Passwords | None = None,
    ) -> None:
        cache = AuthCache()
        usage = KeyUsage(db)
        access_tokens = AccessTokens(jwt_secret, settings.access_token_minutes * _MINUTE_S)
        refresh_s = settings.refresh_token_days * _DAY_S
        throttle = LoginThrottle(
            per_account=settings.login_attempts_per_account,
            per_address=settings.login_attempts_per_address,
            window_s=settings.login_window_s,
        )
        self._passwords = passwords or Passwords()
        self._sessions = Sessions(db, cache, access_tokens, refresh_s, clock)
        self._logins = Logins(db, self._passwords, throttle, self._sessions)
        self._dev_keys = DevKeys(db, cache, settings, clock)
        self._upkeep = AccountUpkeep(db, usage, clock)
        self.users = UserAccounts(db, cache, self._passwords, clock)
        self.keys = ApiKeys(db, cache, usage, clock)

    async def start(self) -> None:
        """Begin the periodic work."""
        self._upkeep.start()

    async def close(self) -> None:
        """End the periodic work and store what was counted; to be called before the database's."""
        self._passwords.close()
        await self._upkeep.close()

    async def login(self, identifier: str, password: str, address: str) -> TokenPair:
        """Tokens for the user with this email or username; see Logins.login."""
        return await self._logins.login(identifier, password, address)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """New tokens for a refresh token, which works once; see Sessions.rotate."""
        return await self._sessions.rotate(refresh_token)

    async def logout(self, principal: Principal, refresh_token: str | None) -> None:
        """End the session: its access and refresh tokens stop working at once."""
        await self._sessions.end(principal, refresh_token)

    async def authenticate(self, credential: str) -> Principal:
        """Who holds this access token or API key.

        Raises Unauthenticated, InvalidToken, TokenExpired.
        """
        if not credential:
            raise Unauthenticated("log in or send an API key")
        kind = tokens.kind_of(credential)
        if kind is Kind.REFRESH:
            raise InvalidToken("a refresh token only gets new tokens; send the access token")
        if kind is Kind.KEY:
            return await self.keys.authenticate(credential)
        return await self._sessions.authenticate(credential)

    async def create_key(
        self, principal: Principal, name: str, scopes: Sequence[str], expires_at: float | None
    ) -> tuple[ApiKey, str]:
        """A new API key and its secret, shown this once; see ApiKeys.create."""
        return await self.keys.create(principal, name, scopes, expires_at)

    async def list_keys(self, principal: Principal) -> list[ApiKey]:
        """The principal's keys, newest first."""
        return await self.keys.of_principal(principal)

    async def revoke_key(self, principal: Principal, public_id: str) -> ApiKey:
        """Revoke a key, and those that were made with it, at once; see ApiKeys.revoke."""
        return await self.keys.revoke(principal, public_id)

    async def key_stats(self, principal: Principal) -> KeyStats:
        """Counts over the principal's keys."""
        return await self.keys.stats(principal)

    async def create_dev_key(self, address: str) -> tuple[ApiKey, str]:
        """A short-lived key without a login, where allowed; see DevKeys.create."""
        return await self._dev_keys.create(address)

    async def add_user(
        self,
        *,
        username: str,
        email: str,
        name: str,
        role: Role,
        password: str,
        plan: str = DEFAULT_PLAN,
    ) -> User:
        """A new account. Raises InvalidInput, Conflict (the username or email is taken)."""
        return await self.users.add(
            username=username, email=email, name=name, role=role, password=password, plan=plan
        )

    async def list_users(self) -> list[User]:
        """Everybody, by username."""
        return await self.users.all()

    async def set_password(self, username: str, password: str) -> User:
        """Change a password; all sessions end, API keys stay. Raises NotFound, InvalidInput."""
        return await self.users.set_password(username, password)

    async def set_plan(self, username: str, plan: str) -> User:
        """Give a user another plan. Raises NotFound, InvalidInput."""
        return await self.users.set_plan(username, plan)

    async def set_disabled(self, username: str, disabled: bool) -> User:
        """Disable or enable a user; see UserAccounts.set_disabled. Raises NotFound."""
        return await self.users.set_disabled(username, disabled)

    async def has_admin(self) -> bool:
        """Whether there is an administrator who is not disabled."""
        return await self.users.has_admin()
