"""The login throttle on a real database: delays, known networks, restarts (F73)."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.config.settings import AuthSettings
from appliance.errors import RateLimited
from appliance.services.accounts.login_throttle import LoginAttempt, LoginThrottle
from appliance.store.sqlite.database import Database
from tests.support.accounts import Clock, open_accounts_harness

SETTINGS = AuthSettings(
    login_attempts_per_account=3,
    login_attempts_everywhere=6,
    login_attempts_per_address=5,
    login_window_s=600.0,
    login_max_delay_s=60.0,
)
HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    async with open_accounts_harness(tmp_path) as harness:
        await harness.add("alice")
        await harness.add("bob")
        yield harness.db


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(db: Database, clock: Clock) -> LoginThrottle:
    return LoginThrottle(db, SETTINGS, clock)


def alice(address: str = HERE) -> LoginAttempt:
    return LoginAttempt(1, "alice", address)


def stranger(name: str, address: str = HERE) -> LoginAttempt:
    return LoginAttempt(None, name, address)


async def fail(throttle: LoginThrottle, attempt: LoginAttempt, times: int) -> None:
    for _ in range(times):
        await throttle.check(attempt)
        await throttle.record_failure(attempt)


async def wait_s(throttle: LoginThrottle, attempt: LoginAttempt) -> float:
    try:
        await throttle.check(attempt)
    except RateLimited as limited:
        return limited.retry_after or 0.0
    return 0.0


async def guess_for(throttle: LoginThrottle, clock: Clock, attempt: LoginAttempt, s: float) -> int:
    """Guess as often as allowed; returns the number of answers."""
    end, answers = clock.now + s, 0
    while clock.now < end:
        try:
            await throttle.record_failure(attempt)
            answers += 1
        except RateLimited as limited:
            clock.advance(limited.retry_after or 0.0)
    return answers


async def test_pair_when_it_keeps_failing_then_each_wait_is_twice_as_long_up_to_the_limit(
    throttle: LoginThrottle, clock: Clock
) -> None:
    await fail(throttle, alice(), 3)
    waits: list[float] = []
    for _ in range(8):
        waits.append(await wait_s(throttle, alice()))
        clock.advance(waits[-1])
        await fail(throttle, alice(), 1)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_pair_when_it_fails_then_other_accounts_and_addresses_do_not_wait(
    throttle: LoginThrottle,
) -> None:
    await fail(throttle, alice(), 3)
    assert await wait_s(throttle, alice()) > 0
    assert await wait_s(throttle, alice(THERE)) == 0
    assert await wait_s(throttle, stranger("bob")) == 0


async def test_account_when_guessed_from_many_addresses_then_slower_for_unknown_ones_only(
    throttle: LoginThrottle,
) -> None:
    await throttle.record_success(alice(THERE), 1)
    for index in range(6):
        await fail(throttle, alice(f"198.51.100.{index}"), 1)
    assert await wait_s(throttle, alice("203.0.113.1")) > 0
    assert await wait_s(throttle, alice(THERE)) == 0
    assert await wait_s(throttle, stranger("carol", "203.0.113.1")) == 0


async def test_address_when_it_tries_many_accounts_then_slower_except_for_users_known_there(
    throttle: LoginThrottle,
) -> None:
    await throttle.record_success(alice(), 1)
    for name in "abcde":
        await fail(throttle, stranger(name), 1)
    assert await wait_s(throttle, stranger("f")) > 0
    assert await wait_s(throttle, LoginAttempt(2, "bob", HERE)) > 0
    assert await wait_s(throttle, alice()) == 0
    assert await wait_s(throttle, stranger("f", THERE)) == 0


async def test_known_address_when_others_guess_from_it_too_then_its_user_waits_seconds_at_most(
    throttle: LoginThrottle, clock: Clock
) -> None:
    await throttle.record_success(alice(), 1)
    answers = await guess_for(throttle, clock, alice(), 100.0)
    assert await wait_s(throttle, alice()) <= 2.0
    assert answers < 100


async def test_account_when_guessed_without_end_then_nobody_is_locked_out(
    throttle: LoginThrottle, clock: Clock
) -> None:
    answers = await guess_for(throttle, clock, alice(), 3600.0)
    assert 60 < answers < 200
    assert await wait_s(throttle, alice()) <= 60.0


async def test_restart_when_failures_were_counted_then_they_still_are(
    throttle: LoginThrottle, db: Database, clock: Clock
) -> None:
    await throttle.record_success(alice(THERE), 1)
    await fail(throttle, alice(), 3)
    again = LoginThrottle(db, SETTINGS, clock)
    assert await wait_s(again, alice()) > 0
    assert await wait_s(again, alice(THERE)) == 0


async def test_window_when_it_slides_then_each_failure_counts_for_its_own_time(
    throttle: LoginThrottle, clock: Clock
) -> None:
    for _ in range(10):
        await fail(throttle, alice(), 1)
        clock.advance(300)
    assert await wait_s(throttle, alice()) == 0


async def test_success_when_it_comes_then_the_pair_starts_anew(throttle: LoginThrottle) -> None:
    await fail(throttle, alice(), 2)
    await throttle.record_success(alice(), 1)
    await fail(throttle, alice(), 2)
    assert await wait_s(throttle, alice()) == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
        ("not an address", "not an address", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
async def test_address_when_written_in_another_form_then_counted_as_what_it_is(
    throttle: LoginThrottle, first: str, second: str, same: bool
) -> None:
    await fail(throttle, alice(first), 3)
    assert (await wait_s(throttle, alice(second)) > 0) is same


async def test_store_when_failures_leave_the_window_then_deleted_and_names_are_never_readable(
    throttle: LoginThrottle, db: Database, clock: Clock
) -> None:
    await fail(throttle, stranger("hunter2 typed as a name"), 3)
    async with db.read() as connection:
        keys = await connection.column("SELECT key_hash FROM rate_events")
        assert len(keys) == 9
        assert not any(b"hunter2" in key for key in keys)
    clock.advance(601)
    await fail(throttle, alice(), 1)
    async with db.read() as connection:
        assert await connection.scalar("SELECT COUNT(*) FROM rate_events") == 3


async def test_proxy_when_many_accounts_fail_from_one_local_address_then_hinted_at_once(
    throttle: LoginThrottle,
) -> None:
    with capture_logs() as logs:
        for index in range(30):
            attempt = stranger(f"user{index}", "8.8.8.8")
            if await wait_s(throttle, attempt) == 0:
                await throttle.record_failure(attempt)
        assert logs == []
        for name in "abcde":
            await fail(throttle, stranger(name, "127.0.0.1"), 1)
        for name in "abcde":
            await fail(throttle, stranger(name, "10.0.0.1"), 1)
    assert len(logs) == 1
    assert "server.trusted_proxies" in logs[0]["event"]
    assert logs[0]["address"] == "127.0.0.1"
