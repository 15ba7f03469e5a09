"""User accounts: add, get, list, change password and plan, disable."""

from collections.abc import Callable

from appliance.domain.users import DEFAULT_PLAN, Principal, Role, User
from appliance.errors import Conflict, Forbidden, NotFound
from appliance.security_log import SecurityEvent, log_security_event
from appliance.services.accounts import permissions, tokens, validation
from appliance.services.accounts.dev_keys import DEV_USER_ID
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.principal_cache import PrincipalCache
from appliance.store.database import Database, Transaction
from appliance.store.tables import refresh_tokens, users
from appliance.store.tables.users import NewUser


class UserAccounts:
    """All user accounts.

    `name` is a username or an email address, case-insensitive; methods that take one raise
    NotFound for an unknown user. No method checks a permission.
    """

    def __init__(
        self, db: Database, cache: PrincipalCache, passwords: Passwords, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._cache = cache
        self._passwords = passwords
        self._clock = clock

    async def add(
        self,
        *,
        username: str,
        email: str,
        name: str,
        role: Role,
        password: str,
        plan: str = DEFAULT_PLAN,
    ) -> User:
        """Create an account. Raises InvalidInput, Conflict (the username or email is taken)."""
        new = NewUser(
            public_id=tokens.new_public_id("user"),
            username=validation.validate_username(username),
            email=validation.validate_email(email),
            name=validation.validate_name(name),
            role=role,
            password_hash=await self._passwords.hash(validation.validate_password(password)),
            at=self._clock(),
            plan=validation.validate_plan(plan),
        )
        async with self._db.write() as tx:
            user = await users.insert(tx, new)
            if user is None:
                raise await _conflict(tx, new)
        log_security_event(
            SecurityEvent.USER_CREATED, user=user.username, role=user.role.value, plan=user.plan
        )
        return user

    async def list_all(self) -> list[User]:
        """All users, by username."""
        async with self._db.read() as connection:
            return await users.list_all(connection)

    async def get(self, name: str) -> User:
        identifier = validation.canonicalize(name)
        async with self._db.read() as connection:
            credentials = await users.get_credentials(connection, identifier)
            user = await users.get(connection, credentials.id) if credentials else None
        if user is None:
            raise _unknown_user(identifier)
        return user

    async def get_principal(self, name: str) -> Principal:
        """The user with all scopes of the role."""
        user = await self.get(name)
        return Principal(user=user, scopes=permissions.scopes_of_role(user.role))

    async def set_password(self, name: str, password: str) -> User:
        """Change a password and end all sessions; API keys keep working. Raises InvalidInput."""
        user = await self.get(name)
        if user.public_id == DEV_USER_ID:
            raise Forbidden(
                f"the user {user.username!r} is for development keys and has no password"
            )
        password_hash = await self._passwords.hash(validation.validate_password(password))
        now = self._clock()
        with self._cache.invalidate_after(user.id):
            async with self._db.write() as tx:
                if not await users.set_password_hash(tx, user.id, password_hash, now):
                    raise _unknown_user(name)
                await refresh_tokens.revoke_sessions(tx, user.id, now)
        log_security_event(SecurityEvent.PASSWORD_CHANGED, user=user.username)
        return user

    async def set_disabled(self, name: str, disabled: bool) -> User:
        """Disable a user, which ends all sessions and suspends all API keys, or enable again.

        Enabling makes the keys work again; ended sessions stay ended.
        """
        user = await self.get(name)
        now = self._clock()
        with self._cache.invalidate_after(user.id):
            async with self._db.write() as tx:
                if not await users.set_disabled(tx, user.id, disabled, now):
                    raise _unknown_user(name)
                if disabled:
                    await refresh_tokens.revoke_sessions(tx, user.id, now)
        changed = SecurityEvent.USER_DISABLED if disabled else SecurityEvent.USER_ENABLED
        log_security_event(changed, user=user.username)
        return await self.get(user.username)

    async def set_plan(self, name: str, plan: str) -> User:
        """Change a user's plan, effective with the next request. Raises InvalidInput."""
        plan = validation.validate_plan(plan)
        user = await self.get(name)
        with self._cache.invalidate_after(user.id):
            async with self._db.write() as tx:
                if not await users.set_plan(tx, user.id, plan, self._clock()):
                    raise _unknown_user(name)
        log_security_event(SecurityEvent.PLAN_CHANGED, user=user.username, plan=plan)
        return await self.get(user.username)

    async def has_admin(self) -> bool:
        """Whether an administrator exists who is not disabled."""
        async with self._db.read() as connection:
            return await users.has_admin(connection)


def _unknown_user(name: str) -> NotFound:
    return NotFound(f"no user {name[:100]!r}")


async def _conflict(tx: Transaction, new: NewUser) -> Conflict:
    if await users.get_by_username(tx, new.username):
        return Conflict(f"the username {new.username!r} is taken", details={"field": "username"})
    return Conflict(f"the email {new.email!r} is taken", details={"field": "email"})
