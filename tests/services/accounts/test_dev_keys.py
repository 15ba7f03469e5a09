"""Development keys: local callers only, if enabled, short-lived."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.config.settings import AuthSettings
from appliance.domain.users import Role, Scope
from appliance.errors import Forbidden, InvalidCredentials, InvalidInput, InvalidToken, TokenExpired
from tests.support.accounts import ADDRESS, AccountsHarness, open_accounts_harness

HOUR_S = 3600.0


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[AccountsHarness, None]:
    settings = AuthSettings(dev_keys=True, dev_key_hours=2)
    async with open_accounts_harness(tmp_path, settings) as harness:
        yield harness


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
async def test_dev_key_when_asked_from_this_machine_then_works_for_its_time(
    harness: AccountsHarness, address: str
) -> None:
    key, secret = await harness.accounts.dev_keys.create(address)
    principal = await harness.accounts.authenticate(secret)
    assert (principal.user.username, principal.user.role) == ("dev", Role.DEVELOPER)
    assert principal.may(Scope.TASKS_WRITE)
    assert key.expires_at == harness.clock() + 2 * HOUR_S
    harness.clock.advance(2 * HOUR_S)
    with pytest.raises(TokenExpired):
        await harness.accounts.authenticate(secret)


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
async def test_dev_key_when_asked_from_elsewhere_then_forbidden_with_a_remedy(
    harness: AccountsHarness, address: str
) -> None:
    with pytest.raises(Forbidden, match="monkey-coder key create"):
        await harness.accounts.dev_keys.create(address)
    assert await harness.accounts.users.list_all() == []


async def test_dev_key_when_off_then_forbidden_with_a_remedy(tmp_path: Path) -> None:
    async with open_accounts_harness(tmp_path) as harness:
        with pytest.raises(Forbidden, match="monkey-coder key create"):
            await harness.accounts.dev_keys.create("127.0.0.1")


async def test_dev_key_when_old_ones_expired_then_they_are_deleted(
    harness: AccountsHarness,
) -> None:
    for _ in range(5):
        await harness.accounts.dev_keys.create("::1")
    harness.clock.advance(3 * HOUR_S)
    await harness.accounts.dev_keys.create("::1")
    assert await harness.scalar("SELECT count(*) FROM api_keys") == 1


async def test_dev_key_when_there_are_too_many_then_the_oldest_stops_at_once(
    harness: AccountsHarness,
) -> None:
    _, oldest = await harness.accounts.dev_keys.create("::1")
    await harness.accounts.authenticate(oldest)
    for _ in range(99):
        await harness.accounts.dev_keys.create("::1")
    assert await harness.accounts.authenticate(oldest)
    _, newest = await harness.accounts.dev_keys.create("::1")
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(oldest)
    assert await harness.accounts.authenticate(newest)
    assert await harness.scalar("SELECT count(*) FROM api_keys") == 100


async def test_dev_key_when_it_makes_a_key_then_that_one_ends_with_it(
    harness: AccountsHarness,
) -> None:
    key, secret = await harness.accounts.dev_keys.create("::1")
    principal = await harness.accounts.authenticate(secret)
    child, _ = await harness.accounts.keys.create(principal, "child", [], None)
    assert child.expires_at == key.expires_at


async def test_dev_user_when_disabled_then_forbidden(harness: AccountsHarness) -> None:
    _, secret = await harness.accounts.dev_keys.create("::1")
    await harness.accounts.users.set_disabled("dev", True)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(secret)
    with pytest.raises(Forbidden, match="disabled"):
        await harness.accounts.dev_keys.create("::1")


@pytest.mark.parametrize("password", ["", "None", "password"])
async def test_dev_user_when_logging_in_then_no_password_is_right(
    harness: AccountsHarness, password: str
) -> None:
    await harness.accounts.dev_keys.create("::1")
    with pytest.raises(InvalidCredentials):
        await harness.accounts.login.log_in("dev", password, ADDRESS)
    with pytest.raises(Forbidden):
        await harness.accounts.users.set_password("dev", "a new password")


@pytest.mark.parametrize(
    ("username", "email", "field"),
    [
        ("dev", "me@example.com", "username"),
        (" DEV", "me@example.com", "username"),
        ("me", "Dev@localhost", "email"),
    ],
)
async def test_dev_user_when_somebody_wants_its_name_then_refused(
    harness: AccountsHarness, username: str, email: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await harness.accounts.users.add(
            username=username, email=email, name="Me", role=Role.ADMIN, password="long enough"
        )
    assert refused.value.details["field"] == field
