"""Keys without a login: for this machine only, while they are on, and not for long."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.config.settings import AuthSettings
from appliance.domain.users import Role, Scope
from appliance.errors import Forbidden, InvalidCredentials, InvalidInput, InvalidToken, TokenExpired
from tests.support.accounts import ADDRESS, Accounts, accounts_in

HOUR_S = 3600.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Accounts, None]:
    settings = AuthSettings(dev_keys=True, dev_key_hours=2)
    async with accounts_in(tmp_path, settings) as accounts:
        yield accounts


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
async def test_dev_key_when_asked_from_this_machine_then_works_for_its_time(
    box: Accounts, address: str
) -> None:
    key, secret = await box.service.create_dev_key(address)
    principal = await box.service.authenticate(secret)
    assert (principal.user.username, principal.user.role) == ("dev", Role.DEVELOPER)
    assert principal.may(Scope.TASKS_WRITE)
    assert key.expires_at == box.clock() + 2 * HOUR_S
    box.clock.advance(2 * HOUR_S)
    with pytest.raises(TokenExpired):
        await box.service.authenticate(secret)


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "::ffff:192.0.2.1",
        "10.0.0.1",
        "0.0.0.0",
        "",
        "localhost",
        "127.0.0.1.evil",
        "::",
    ],
)
async def test_dev_key_when_asked_from_elsewhere_then_forbidden_and_told_how_to_get_one(
    box: Accounts, address: str
) -> None:
    with pytest.raises(Forbidden, match="monkey-coder key create"):
        await box.service.create_dev_key(address)
    assert await box.service.list_users() == []


async def test_dev_key_when_off_then_forbidden_and_told_how_to_get_one(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as box:
        with pytest.raises(Forbidden, match="monkey-coder key create"):
            await box.service.create_dev_key("127.0.0.1")


async def test_dev_key_when_old_ones_expired_then_they_are_deleted(box: Accounts) -> None:
    for _ in range(5):
        await box.service.create_dev_key("::1")
    box.clock.advance(3 * HOUR_S)
    await box.service.create_dev_key("::1")
    assert await box.scalar("SELECT count(*) FROM api_keys") == 1


async def test_dev_key_when_there_are_too_many_then_the_oldest_stops_at_once(
    box: Accounts,
) -> None:
    _, oldest = await box.service.create_dev_key("::1")
    await box.service.authenticate(oldest)
    for _ in range(99):
        await box.service.create_dev_key("::1")
    assert await box.service.authenticate(oldest)
    _, newest = await box.service.create_dev_key("::1")
    with pytest.raises(InvalidToken):
        await box.service.authenticate(oldest)
    assert await box.service.authenticate(newest)
    assert await box.scalar("SELECT count(*) FROM api_keys") == 100


async def test_dev_key_when_it_makes_a_key_then_that_one_ends_with_it(box: Accounts) -> None:
    key, secret = await box.service.create_dev_key("::1")
    principal = await box.service.authenticate(secret)
    child, _ = await box.service.create_key(principal, "child", [], None)
    assert child.expires_at == key.expires_at


async def test_dev_user_when_disabled_then_forbidden(box: Accounts) -> None:
    _, secret = await box.service.create_dev_key("::1")
    await box.service.set_disabled("dev", True)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(secret)
    with pytest.raises(Forbidden, match="disabled"):
        await box.service.create_dev_key("::1")


@pytest.mark.parametrize("password", ["", "None", "password"])
async def test_dev_user_when_logging_in_then_no_password_is_right(
    box: Accounts, password: str
) -> None:
    await box.service.create_dev_key("::1")
    with pytest.raises(InvalidCredentials):
        await box.service.login("dev", password, ADDRESS)
    with pytest.raises(Forbidden):
        await box.service.set_password("dev", "a new password")


@pytest.mark.parametrize(
    ("username", "email", "field"),
    [
        ("dev", "me@example.com", "username"),
        (" DEV", "me@example.com", "username"),
        ("me", "Dev@localhost", "email"),
    ],
)
async def test_dev_user_when_somebody_wants_its_name_then_refused(
    box: Accounts, username: str, email: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await box.service.add_user(
            username=username, email=email, name="Me", role=Role.ADMIN, password="long enough"
        )
    assert refused.value.details["field"] == field
