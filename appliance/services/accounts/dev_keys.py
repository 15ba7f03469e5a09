"""Development keys: short-lived API keys without a login, for callers on this machine only."""

from collections.abc import Callable

from appliance.config.settings import AuthSettings
from appliance.domain.addresses import parse_address
from appliance.domain.users import ApiKey, Role, Scope, User
from appliance.errors import Conflict, Forbidden
from appliance.services.accounts import api_key_rules, tokens
from appliance.services.accounts.principal_cache import PrincipalCache
from appliance.services.accounts.validation import DEV_EMAIL, DEV_USERNAME
from appliance.store.database import Database, Transaction
from appliance.store.tables import api_keys, users
from appliance.store.tables.users import NewUser

# A fixed id that no generated one can equal.
DEV_USER_ID = "user_dev"
_REMEDY = "create a key on the server with `monkey-coder key create --user NAME`"


class DevKeys:
    """Keys of the built-in user `dev`, who has the role developer and no password."""

    def __init__(
        self,
        db: Database,
        cache: PrincipalCache,
        settings: AuthSettings,
        clock: Callable[[], float],
    ) -> None:
        self._db = db
        self._cache = cache
        self._settings = settings
        self._clock = clock

    async def create(self, address: str) -> tuple[ApiKey, str]:
        """Create a key for the caller at `address`; returns it and its secret.

        Deletes the oldest keys above KEYS_PER_USER. Raises Forbidden if auth.dev_keys is off
        or the caller is not on this machine, Conflict if another account has the name.
        """
        self._require_allowed(address)
        now = self._clock()
        async with self._db.write() as tx:
            user = await _dev_user(tx, now)
            key, secret = await self._replace_oldest(tx, user, now)
        self._cache.invalidate(user.id)
        api_key_rules.log_created(key, user.username)
        return key, secret

    def _require_allowed(self, address: str) -> None:
        if not self._settings.dev_keys:
            raise Forbidden(f"development keys are disabled (auth.dev_keys); {_REMEDY}")
        if not is_loopback(address):
            raise Forbidden(
                f"development keys are available to callers on the server itself only; {_REMEDY}"
            )

    async def _replace_oldest(self, tx: Transaction, user: User, now: float) -> tuple[ApiKey, str]:
        await api_keys.delete_unusable(tx, user.id, now)
        await api_keys.delete_oldest(tx, user.id, keep=api_key_rules.KEYS_PER_USER - 1)
        secret = tokens.new_api_key()
        new = api_key_rules.build_new_key(
            secret,
            user.id,
            name="Development Key",
            scopes=(Scope.ALL.value,),
            created_at=now,
            expires_at=now + self._settings.dev_key_hours * 3600,
        )
        return await api_key_rules.insert_key(tx, new), secret


def is_loopback(address: str) -> bool:
    """Whether `address` is a loopback address; False if it can't be parsed."""
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


async def _dev_user(tx: Transaction, now: float) -> User:
    user = await users.get_by_public_id(tx, DEV_USER_ID) or await users.insert(
        tx, _new_dev_user(now)
    )
    if user is None:
        raise Conflict(f"the username {DEV_USERNAME!r} belongs to another account; {_REMEDY}")
    if user.disabled:
        raise Forbidden(f"the user {DEV_USERNAME!r} is disabled; {_REMEDY}")
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
