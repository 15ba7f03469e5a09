"""The users of the box: adding, finding, disabling them, changing their passwords."""

from collections.abc import Callable

from appliance.domain.users import DEFAULT_PLAN, Principal, Role, User
from appliance.errors import Conflict, Forbidden, NotFound
from appliance.services.accounts import permissions, tokens, validation
from appliance.services.accounts.dev_keys import DEV_USER_ID
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.principal_cache import AuthCache
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import refresh_tokens, users
from appliance.store.tables.users import NewUser


class UserAccounts:
    """Who exists. A user is named by username or email, in any case; NotFound if unknown."""

    def __init__(
        self, db: Database, cache: AuthCache, passwords: Passwords, clock: Callable[[], float]
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
        """A new account. Raises InvalidInput, Conflict (the username or email is taken)."""
        new = NewUser(
            public_id=tokens.new_id("user"),
            username=validation.valid_username(username),
            email=validation.valid_email(email),
            name=validation.valid_name(name),
            role=role,
            password_hash=await self._passwords.hash(validation.valid_password(password)),
            at=self._clock(),
            plan=validation.valid_plan(plan),
        )
        async with self._db.write() as tx:
            user = await users.insert(tx, new)
            if user is None:
                raise await _taken(tx, new)
        return user

    async def all(self) -> list[User]:
        """Everybody, by username."""
        async with self._db.read() as connection:
            return await users.all_users(connection)

    async def get(self, name: str) -> User:
        identifier = validation.canonical(name)
        async with self._db.read() as connection:
            found = await users.credentials(connection, identifier)
            user = await users.get(connection, found.id) if found else None
        if user is None:
            raise NotFound(f"there is no user {identifier[:100]!r}")
        return user

    async def principal_of(self, name: str) -> Principal:
        """A user with all rights of the role."""
        user = await self.get(name)
        return Principal(user=user, scopes=permissions.role_scopes(user.role))

    async def set_password(self, name: str, password: str) -> User:
        """Change a password; all sessions end, API keys stay. Raises InvalidInput too."""
        user = await self.get(name)
        if user.public_id == DEV_USER_ID:
            raise Forbidden("the user of development keys has no password")
        password_hash = await self._passwords.hash(validation.valid_password(password))
        now = self._clock()
        with self._cache.forgetting(user.id):
            async with self._db.write() as tx:
                await users.set_password_hash(tx, user.id, password_hash, now)
                await refresh_tokens.revoke_all(tx, user.id, now)
        return user

    async def set_disabled(self, name: str, disabled: bool) -> User:
        """Disable a user, which ends all sessions and stops all keys, or enable again.

        Sessions stay ended when enabled again; keys work again.
        """
        user = await self.get(name)
        now = self._clock()
        with self._cache.forgetting(user.id):
            async with self._db.write() as tx:
                await users.set_disabled(tx, user.id, disabled, now)
                if disabled:
                    await refresh_tokens.revoke_all(tx, user.id, now)
        return await self.get(user.username)

    async def set_plan(self, name: str, plan: str) -> User:
        """Give a user another plan; it holds from the next request. Raises InvalidInput too."""
        plan = validation.valid_plan(plan)
        user = await self.get(name)
        with self._cache.forgetting(user.id):
            async with self._db.write() as tx:
                await users.set_plan(tx, user.id, plan, self._clock())
        return await self.get(user.username)

    async def has_admin(self) -> bool:
        """Whether there is an administrator who is not disabled."""
        async with self._db.read() as connection:
            return await users.has_admin(connection)


async def _taken(tx: Transaction, new: NewUser) -> Conflict:
    if await users.by_username(tx, new.username):
        return Conflict(f"the username {new.username!r} is taken", details={"field": "username"})
    return Conflict(f"the email {new.email!r} is taken", details={"field": "email"})
