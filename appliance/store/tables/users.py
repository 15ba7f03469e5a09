"""The table `users`. Usernames and emails are passed in canonical form."""

from msgspec import Struct

from appliance.domain.users import DEFAULT_PLAN, Role, User
from appliance.store.database import Connection, Transaction

_SELECT = "SELECT id, public_id, username, email, name, role, disabled, created_at, plan FROM users"


class NewUser(Struct, frozen=True):
    """The values of a new user. `password_hash` None: no login with a password."""

    public_id: str
    username: str
    email: str
    name: str
    role: Role
    password_hash: str | None
    at: float
    plan: str = DEFAULT_PLAN


class Credentials(Struct, frozen=True):
    """What a login verifies."""

    id: int
    password_hash: str | None
    disabled: bool


async def insert(tx: Transaction, new: NewUser) -> User | None:
    """The new user, or None if the username or the email is taken."""
    user_id = await tx.scalar(
        """
        INSERT INTO users
            (public_id, username, email, name, password_hash, role, plan, created_at, updated_at)
        VALUES (:public_id, :username, :email, :name, :password_hash, :role, :plan, :at, :at)
        ON CONFLICT DO NOTHING
        RETURNING id
        """,
        {
            "public_id": new.public_id,
            "username": new.username,
            "email": new.email,
            "name": new.name,
            "password_hash": new.password_hash,
            "role": new.role.value,
            "plan": new.plan,
            "at": new.at,
        },
    )
    return None if user_id is None else await get(tx, user_id)


async def get(connection: Connection, user_id: int) -> User | None:
    return await connection.one(User, f"{_SELECT} WHERE id = :id", {"id": user_id})


async def get_by_public_id(connection: Connection, public_id: str) -> User | None:
    return await connection.one(User, f"{_SELECT} WHERE public_id = :id", {"id": public_id})


async def get_by_username(connection: Connection, username: str) -> User | None:
    return await connection.one(
        User, f"{_SELECT} WHERE username = :username", {"username": username}
    )


async def get_credentials(connection: Connection, identifier: str) -> Credentials | None:
    """The credentials of the user with this username or email."""
    # A username has no @ and an email has one: at most one row matches.
    return await connection.one(
        Credentials,
        """
        SELECT id, password_hash, disabled FROM users
        WHERE username = :identifier OR email = :identifier
        """,
        {"identifier": identifier},
    )


async def list_all(connection: Connection) -> list[User]:
    """All users, by username."""
    return await connection.all(User, f"{_SELECT} ORDER BY username")


async def set_password_hash(tx: Transaction, user_id: int, password_hash: str, at: float) -> bool:
    """False if the user does not exist."""
    changed = await tx.execute(
        "UPDATE users SET password_hash = :hash, updated_at = :at WHERE id = :id",
        {"id": user_id, "hash": password_hash, "at": at},
    )
    return changed == 1


async def renew_password_hash(tx: Transaction, user_id: int, old: str, new: str) -> None:
    """Store a new hash of the same password, unless the password has been changed."""
    await tx.execute(
        "UPDATE users SET password_hash = :new WHERE id = :id AND password_hash = :old",
        {"id": user_id, "old": old, "new": new},
    )


async def set_disabled(tx: Transaction, user_id: int, disabled: bool, at: float) -> bool:
    """False if the user does not exist."""
    changed = await tx.execute(
        "UPDATE users SET disabled = :disabled, updated_at = :at WHERE id = :id",
        {"id": user_id, "disabled": disabled, "at": at},
    )
    return changed == 1


async def set_plan(tx: Transaction, user_id: int, plan: str, at: float) -> bool:
    """False if the user does not exist."""
    changed = await tx.execute(
        "UPDATE users SET plan = :plan, updated_at = :at WHERE id = :id",
        {"id": user_id, "plan": plan, "at": at},
    )
    return changed == 1


async def has_admin(connection: Connection) -> bool:
    """Whether an administrator exists who is not disabled."""
    found = await connection.scalar(
        "SELECT 1 FROM users WHERE role = :role AND disabled = 0 LIMIT 1",
        {"role": Role.ADMIN.value},
    )
    return found is not None
