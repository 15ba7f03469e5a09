"""User accounts: add, find, disable, conflicts."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.domain.users import Role, User
from appliance.errors import Conflict, InvalidInput, NotFound
from tests.support.accounts import ADDRESS, PASSWORD, AccountsHarness, open_accounts_harness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[AccountsHarness, None]:
    async with open_accounts_harness(tmp_path) as harness:
        yield harness


async def add(harness: AccountsHarness, **changes: str) -> User:
    fields = {"username": "alice", "email": "alice@example.com", "name": "Alice"}
    fields |= {"password": PASSWORD} | changes
    return await harness.accounts.users.add(role=Role.DEVELOPER, **fields)


async def test_add_when_valid_then_stored_in_canonical_form_and_password_only_hashed(
    harness: AccountsHarness,
) -> None:
    user = await add(
        harness, username=" Alice ", email="Alice@Example.COM", name=" Alice Ångström "
    )
    assert (user.username, user.email) == ("alice", "alice@example.com")
    assert user.name == "Alice Ångström"
    assert user.public_id.startswith("user_")
    assert not user.disabled
    assert await harness.accounts.users.list_all() == [user]
    assert str(await harness.scalar("SELECT password_hash FROM users")).startswith("$argon2id$")


async def test_add_when_any_field_is_bad_then_invalid_and_nobody_is_added(
    harness: AccountsHarness,
) -> None:
    bad = {"username": "a b", "email": "alice", "name": "", "password": "short"}
    for field, value in bad.items():
        with pytest.raises(InvalidInput) as refused:
            await add(harness, **{field: value})
        assert refused.value.details["field"] == field
    assert await harness.accounts.users.list_all() == []


async def test_add_when_fields_are_unusual_but_good_then_can_log_in(
    harness: AccountsHarness,
) -> None:
    fields = {"username": "7up.x_y-z", "email": "jürgen+box@köln.example", "name": "李小龍"}
    for password in ("x" * 1024, "密码密码密码密码", "a\x00bcdefg"):
        await add(harness, **fields, password=password)
        assert await harness.accounts.login.log_in("JÜRGEN+box@Köln.example", password, ADDRESS)
        async with harness.db.write() as tx:
            await tx.execute("DELETE FROM users")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": "ALICE", "email": "other@example.com"}, "username"),
        ({"username": "other", "email": "ALICE@example.com"}, "email"),
        ({}, "username"),
    ],
)
async def test_add_when_name_or_email_is_taken_then_conflict(
    harness: AccountsHarness, changes: dict[str, str], field: str
) -> None:
    await add(harness)
    with pytest.raises(Conflict) as refused:
        await add(harness, **changes)
    assert refused.value.details == {"field": field}
    assert len(await harness.accounts.users.list_all()) == 1


async def test_add_when_many_want_one_name_at_once_then_one_gets_it(
    harness: AccountsHarness,
) -> None:
    outcomes = await asyncio.gather(*(add(harness) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, User) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9


@pytest.mark.parametrize("name", ["nobody", "", "' OR 1=1 --", "%", "\ud800", "x" * 10**6])
async def test_changes_when_user_does_not_exist_then_not_found(
    harness: AccountsHarness, name: str
) -> None:
    await add(harness)
    for change in (
        harness.accounts.users.set_password(name, "long enough"),
        harness.accounts.users.set_disabled(name, True),
        harness.accounts.users.get_principal(name),
    ):
        with pytest.raises(NotFound):
            await change


async def test_set_disabled_when_set_and_reset_then_user_shows_it(
    harness: AccountsHarness,
) -> None:
    await add(harness)
    assert (await harness.accounts.users.set_disabled("ALICE@example.com", True)).disabled
    assert not (await harness.accounts.users.set_disabled("Alice", False)).disabled


async def test_has_admin_when_there_is_an_enabled_one_then_true(harness: AccountsHarness) -> None:
    await add(harness)
    assert not await harness.accounts.users.has_admin()
    await harness.add("root", Role.ADMIN)
    assert await harness.accounts.users.has_admin()
    await harness.accounts.users.set_disabled("root", True)
    assert not await harness.accounts.users.has_admin()
