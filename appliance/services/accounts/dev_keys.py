"""Keys for trying the box out: short-lived, without a login, for callers on this machine only."""

import ipaddress
from collections.abc import Callable

from appliance.config.settings import AuthSettings
from appliance.domain.users import ApiKey, Role, Scope, User
from appliance.errors import Conflict, Forbidden
from appliance.services.accounts import api_key_rules, tokens
from appliance.services.accounts.principal_cache import AuthCache
from appliance.services.accounts.validation import DEV_EMAIL, DEV_USERNAME
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import api_keys, users
from appliance.store.tables.users import NewUser

# Fixed, so that no other account can ever be taken for the built-in one.
DEV_USER_ID = "user_dev"
_HOW_ELSE = "make a key on the box with `monkey-coder key create --user NAME`"


class DevKeys:
    """Keys of the built-in user `dev`, a developer without a password."""

    def __init__(
        self, db: Database, cache: AuthCache, settings: AuthSettings, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._cache = cache
        self._settings = settings
        self._clock = clock

    async def create(self, address: str) -> tuple[ApiKey, str]:
        """A new key and its secret, for the caller at `address`.

        Takes the place of the oldest one when there are too many. Raises Forbidden if
        such keys are off or the caller is not on this machine.
        """
        self._require_allowed(address)
        now = self._clock()
        async with self._db.write() as tx:
            user = await _dev_user(tx, now)
            key, secret = await self._replace_oldest(tx, user, now)
        self._cache.forget(user.id)
        return key, secret

    def _require_allowed(self, address: str) -> None:
        if not self._settings.dev_keys:
            raise Forbidden(f"development keys are off on this box (auth.dev_keys); {_HOW_ELSE}")
        if not is_loopback(address):
            raise Forbidden(
                f"development keys are given only to callers on the box itself; {_HOW_ELSE}"
            )

    async def _replace_oldest(self, tx: Transaction, user: User, now: float) -> tuple[ApiKey, str]:
        await api_keys.delete_unusable(tx, user.id, now)
        await api_keys.delete_oldest(tx, user.id, keep=api_key_rules.KEYS_PER_USER - 1)
        secret = tokens.new_key()
        new = api_key_rules.draft(
            secret,
            user.id,
            name="Development Key",
            scopes=(Scope.ALL.value,),
            created_at=now,
            expires_at=now + self._settings.dev_key_hours * 3600,
        )
        return await api_key_rules.store(tx, new), secret


def is_loopback(address: str) -> bool:
    """Whether a peer's address means this machine; an unreadable one does not."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


async def _dev_user(tx: Transaction, now: float) -> User:
    user = await users.by_public_id(tx, DEV_USER_ID) or await users.insert(tx, _new_dev_user(now))
    if user is None:
        raise Conflict(f"the name {DEV_USERNAME!r} belongs to another account; {_HOW_ELSE}")
    if user.disabled:
        raise Forbidden(f"the user {DEV_USERNAME!r} is disabled; {_HOW_ELSE}")
    return user


def _new_dev_user(now: float) -> NewUser:
    return NewUser(
        public_id=DEV_USER_ID,
        username=DEV_USERNAME,
        email=DEV_EMAIL,
        name="Developer",
        role=Role.DEVELOPER,
        password_hash=None,
        at=now,
    )
