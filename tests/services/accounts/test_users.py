"""Users: what they may be called, and who exists."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.domain.users import Role, User
from appliance.errors import Conflict, InvalidInput, NotFound
from tests.support.accounts import ADDRESS, PASSWORD, Accounts, accounts_in


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Accounts, None]:
    async with accounts_in(tmp_path) as accounts:
        yield accounts


async def add(box: Accounts, **changes: str) -> User:
    fields = {"username": "alice", "email": "alice@example.com", "name": "Alice"}
    fields |= {"password": PASSWORD} | changes
    return await box.service.add_user(role=Role.DEVELOPER, **fields)


async def test_add_when_valid_then_stored_in_canonical_form_and_password_only_hashed(
    box: Accounts,
) -> None:
    user = await add(box, username=" Alice ", email="Alice@Example.COM", name=" Alice Ångström ")
    assert (user.username, user.email) == ("alice", "alice@example.com")
    assert user.name == "Alice Ångström"
    assert user.public_id.startswith("user_")
    assert not user.disabled
    assert await box.service.list_users() == [user]
    assert str(await box.scalar("SELECT password_hash FROM users")).startswith("$argon2id$")


async def test_add_when_any_field_is_bad_then_invalid_and_nobody_is_added(box: Accounts) -> None:
    bad = {"username": "a b", "email": "alice", "name": "", "password": "short"}
    for field, value in bad.items():
        with pytest.raises(InvalidInput) as refused:
            await add(box, **{field: value})
        assert refused.value.details["field"] == field
    assert await box.service.list_users() == []


async def test_add_when_fields_are_unusual_but_good_then_can_log_in(box: Accounts) -> None:
    fields = {"username": "7up.x_y-z", "email": "jürgen+box@köln.example", "name": "李小龍"}
    for password in ("x" * 1024, "密码密码密码密码", "a\x00bcdefg"):
        await add(box, **fields, password=password)
        assert await box.service.login("JÜRGEN+box@Köln.example", password, ADDRESS)
        async with box.db.write() as tx:
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
    box: Accounts, changes: dict[str, str], field: str
) -> None:
    await add(box)
    with pytest.raises(Conflict) as refused:
        await add(box, **changes)
    assert refused.value.details == {"field": field}
    assert len(await box.service.list_users()) == 1


async def test_add_when_many_want_one_name_at_once_then_one_gets_it(box: Accounts) -> None:
    outcomes = await asyncio.gather(*(add(box) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, User) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9


@pytest.mark.parametrize("name", ["nobody", "", "' OR 1=1 --", "%", "\ud800", "x" * 10**6])
async def test_changes_when_user_does_not_exist_then_not_found(box: Accounts, name: str) -> None:
    await add(box)
    for change in (
        box.service.set_password(name, "long enough"),
        box.service.set_disabled(name, True),
        box.service.users.principal_of(name),
    ):
        with pytest.raises(NotFound):
            await change


async def test_set_disabled_when_done_and_undone_then_user_says_so(box: Accounts) -> None:
    await add(box)
    assert (await box.service.set_disabled("ALICE@example.com", True)).disabled
    assert not (await box.service.set_disabled("Alice", False)).disabled


async def test_has_admin_when_there_is_an_enabled_one_then_true(box: Accounts) -> None:
    await add(box)
    assert not await box.service.has_admin()
    await box.add("root", Role.ADMIN)
    assert await box.service.has_admin()
    await box.service.set_disabled("root", True)
    assert not await box.service.has_admin()
