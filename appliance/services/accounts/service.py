"""Builds the parts that deal with users and their credentials, and authenticates requests."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.config.settings import AuthSettings
from appliance.domain.users import Principal
from appliance.errors import InvalidToken, Unauthenticated
from appliance.services.accounts import tokens
from appliance.services.accounts.api_keys import ApiKeys
from appliance.services.accounts.dev_keys import DevKeys
from appliance.services.accounts.key_usage import KeyUsage
from appliance.services.accounts.login import PasswordLogin
from appliance.services.accounts.login_throttle import LoginThrottle
from appliance.services.accounts.maintenance import AccountMaintenance
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.principal_cache import PrincipalCache
from appliance.services.accounts.sessions import Sessions
from appliance.services.accounts.tokens import AccessTokens, CredentialKind
from appliance.services.accounts.users import UserAccounts
from appliance.store.database import Database

_MINUTE_S = 60.0
_DAY_S = 86400.0


@dataclass(frozen=True)
class Accounts:
    """Users and their credentials, by part. `build_accounts` makes it.

    Between `start` and `close` a background task stores the uses of keys and deletes
    expired credentials. Methods of `users` and `keys` that take no principal check no
    permission: they are for the command line.
    """

    users: UserAccounts
    keys: ApiKeys
    sessions: Sessions
    login: PasswordLogin
    dev_keys: DevKeys
    passwords: Passwords
    maintenance: AccountMaintenance

    async def start(self) -> None:
        """Start the background task."""
        self.maintenance.start()

    async def close(self) -> None:
        """Stop the background task and store the counted uses; call before Database.close."""
        self.passwords.close()
        await self.maintenance.close()

    async def authenticate(self, credential: str) -> Principal:
        """The principal of an access token or API key.

        Raises Unauthenticated, InvalidToken, TokenExpired.
        """
        if not credential:
            raise Unauthenticated("log in or send an API key")
        kind = tokens.credential_kind(credential)
        if kind is CredentialKind.REFRESH:
            raise InvalidToken(
                "a refresh token can only be exchanged for new tokens; send the access token"
            )
        if kind is CredentialKind.KEY:
            return await self.keys.authenticate(credential)
        return await self.sessions.authenticate(credential)

    async def is_valid(self, principal: Principal) -> bool:
        """Whether the key or session that authenticated the principal still would."""
        if principal.key_id is not None:
            return await self.keys.is_valid(principal.key_id)
        if principal.session_id is not None:
            return await self.sessions.is_valid(principal.session_id)
        return True


def build_accounts(
    db: Database,
    settings: AuthSettings,
    jwt_secret: bytes,
    *,
    clock: Callable[[], float] = time.time,
    passwords: Passwords | None = None,
) -> Accounts:
    """All parts on one database; `clock` gives epoch seconds."""
    cache = PrincipalCache()
    usage = KeyUsage(db)
    passwords = passwords or Passwords()
    access_tokens = AccessTokens(jwt_secret, settings.access_token_minutes * _MINUTE_S)
    throttle = LoginThrottle(db, settings, clock)
    sessions = Sessions(db, cache, access_tokens, settings.refresh_token_days * _DAY_S, clock)
    return Accounts(
        users=UserAccounts(db, cache, passwords, clock),
        keys=ApiKeys(db, cache, usage, clock),
        sessions=sessions,
        login=PasswordLogin(db, passwords, throttle, sessions),
        dev_keys=DevKeys(db, cache, settings, clock),
        passwords=passwords,
        maintenance=AccountMaintenance(db, usage, throttle, clock),
    )
