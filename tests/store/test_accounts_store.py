"""The tables of accounts: constraints that the database itself enforces."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from appliance.domain.users import KeyStatus, Role, User
from appliance.store.sqlite.database import Database
from appliance.store.tables import api_keys, refresh_tokens, users
from appliance.store.tables.api_keys import KeyUse, NewKey
from appliance.store.tables.users import NewUser

NOW = 1_800_000_000.0


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    database = await Database.open(tmp_path / "appliance.db")
    yield database
    await database.close()


def new_user(name: str, role: Role = Role.DEVELOPER) -> NewUser:
    return NewUser(f"user_{name}", name, f"{name}@example.com", name, role, None, NOW)


async def add_user(db: Database, name: str) -> User:
    async with db.write() as tx:
        user = await users.insert(tx, new_user(name))
    assert user is not None
    return user


async def add_key(db: Database, user: User, name: str, parent: int | None = None) -> int:
    new = NewKey(f"key_{name}", user.id, parent, name, "mk-", name, ("*",), NOW, None)
    async with db.write() as tx:
        return await api_keys.insert(tx, new)


async def add_session(db: Database, user: User, name: str) -> int:
    async with db.write() as tx:
        return await refresh_tokens.open_session(
            tx, public_id=name, user_id=user.id, at=NOW, expires_at=NOW + 10
        )


async def add_token(db: Database, session_id: int, name: str) -> None:
    async with db.write() as tx:
        await refresh_tokens.add(
            tx, session_id=session_id, token_hash=name, at=NOW, expires_at=NOW + 20
        )


async def test_user_when_inserted_then_read_back_by_every_name(db: Database) -> None:
    user = await add_user(db, "alice")
    async with db.read() as connection:
        assert await users.get(connection, user.id) == user
        assert await users.get_by_username(connection, "alice") == user
        assert await users.get_by_public_id(connection, "user_alice") == user
        for identifier in ("alice", "alice@example.com"):
            found = await users.get_credentials(connection, identifier)
            assert found is not None
            assert (found.id, found.password_hash, found.disabled) == (user.id, None, False)
        assert await users.get_credentials(connection, "Alice") is None


@pytest.mark.parametrize(
    "change", [{"username": "alice"}, {"email": "alice@example.com"}, {"public_id": "user_alice"}]
)
async def test_user_when_any_name_is_taken_then_not_inserted(
    db: Database, change: dict[str, str]
) -> None:
    await add_user(db, "alice")
    async with db.write() as tx:
        assert await users.insert(tx, replace(new_user("bob"), **change)) is None
        assert len(await users.list_all(tx)) == 1


@pytest.mark.parametrize("assignment", ["role = 'god'", "disabled = 2", "username = NULL"])
async def test_user_when_a_value_is_impossible_then_the_database_refuses(
    db: Database, assignment: str
) -> None:
    await add_user(db, "alice")
    with pytest.raises(sqlite3.IntegrityError):
        async with db.write() as tx:
            await tx.execute(f"UPDATE users SET {assignment}")


async def test_session_when_it_already_has_an_unused_token_then_the_database_refuses_another(
    db: Database,
) -> None:
    session_id = await add_session(db, await add_user(db, "alice"), "ses_1")
    await add_token(db, session_id, "first")
    with pytest.raises(sqlite3.IntegrityError):
        await add_token(db, session_id, "second")
    async with db.write() as tx:
        row = await refresh_tokens.get(tx, "first")
        assert row is not None
        assert await refresh_tokens.mark_used(tx, row.id, NOW)
        assert not await refresh_tokens.mark_used(tx, row.id, NOW)
    await add_token(db, session_id, "second")


async def test_session_when_a_token_is_added_then_lives_as_long(db: Database) -> None:
    await add_token(db, await add_session(db, await add_user(db, "alice"), "ses_1"), "token")
    async with db.read() as connection:
        session = await refresh_tokens.get_session(connection, "ses_1")
    assert session is not None
    assert session.expires_at == NOW + 20


async def test_revoke_session_when_it_is_another_users_then_nothing_happens(db: Database) -> None:
    alice, bob = await add_user(db, "alice"), await add_user(db, "bob")
    await add_session(db, alice, "ses_1")
    for user, revoked_at in ((bob, None), (alice, NOW)):
        async with db.write() as tx:
            await refresh_tokens.revoke_session(tx, "ses_1", user.id, NOW)
            session = await refresh_tokens.get_session(tx, "ses_1")
        assert session is not None
        assert session.revoked_at == revoked_at


async def test_delete_expired_when_called_then_live_tokens_stay(db: Database) -> None:
    session_id = await add_session(db, await add_user(db, "alice"), "ses_1")
    await add_token(db, session_id, "used")
    async with db.write() as tx:
        row = await refresh_tokens.get(tx, "used")
        assert row is not None
        await refresh_tokens.mark_used(tx, row.id, NOW)
        await refresh_tokens.add(
            tx, session_id=session_id, token_hash="live", at=NOW, expires_at=NOW + 100
        )
        assert await refresh_tokens.delete_expired(tx, NOW + 50) == 1
        assert await refresh_tokens.get(tx, "used") is None
        assert await refresh_tokens.get(tx, "live")


async def test_user_when_deleted_then_credentials_go_too(db: Database) -> None:
    user = await add_user(db, "alice")
    await add_token(db, await add_session(db, user, "ses_1"), "token")
    await add_key(db, user, "key")
    async with db.write() as tx:
        await tx.execute("DELETE FROM users")
        for table in ("sessions", "refresh_tokens", "api_keys"):
            assert await tx.scalar(f"SELECT count(*) FROM {table}") == 0


async def test_revoke_key_when_it_made_others_then_the_whole_tree_and_nothing_else(
    db: Database,
) -> None:
    user = await add_user(db, "alice")
    root = await add_key(db, user, "root")
    child = await add_key(db, user, "child", root)
    await add_key(db, user, "sibling", root)
    await add_key(db, user, "grandchild", child)
    await add_key(db, user, "other")
    async with db.write() as tx:
        await api_keys.revoke(tx, child, NOW + 1)
        await api_keys.revoke(tx, root, NOW + 2)
        revoked = {row.name: row.revoked_at for row in await api_keys.list_all(tx)}
    assert revoked == {
        "root": NOW + 2,
        "child": NOW + 1,
        "sibling": NOW + 2,
        "grandchild": NOW + 1,
        "other": None,
    }


async def test_key_status_when_several_reasons_hold_then_the_final_one_is_reported(
    db: Database,
) -> None:
    user = await add_user(db, "alice")
    key_id = await add_key(db, user, "key")
    states: list[KeyStatus] = []
    for statement in (
        "UPDATE api_keys SET name = name",
        "UPDATE users SET disabled = 1",
        f"UPDATE api_keys SET expires_at = {NOW}",
        f"UPDATE api_keys SET revoked_at = {NOW}",
    ):
        async with db.write() as tx:
            await tx.execute(statement)
            row = await api_keys.get(tx, key_id)
        assert row is not None
        states.append(row.status(NOW))
    assert states == [KeyStatus.ACTIVE, KeyStatus.INACTIVE, KeyStatus.EXPIRED, KeyStatus.REVOKED]


async def test_add_uses_when_called_again_then_added_up_and_time_never_goes_back(
    db: Database,
) -> None:
    key_id = await add_key(db, await add_user(db, "alice"), "key")
    async with db.write() as tx:
        for count, at in ((2, NOW + 5), (3, NOW + 1)):
            await api_keys.add_uses(tx, [KeyUse(key_id, count, at), KeyUse(999, 1, at)])
        row = await api_keys.get(tx, key_id)
    assert row is not None
    assert (row.use_count, row.last_used_at) == (5, NOW + 5)
