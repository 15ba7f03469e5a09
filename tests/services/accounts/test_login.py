"""Login: credentials, throttling, and no hint of which accounts exist."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from appliance.config.settings import AuthSettings
from appliance.errors import (
    Forbidden,
    InvalidCredentials,
    InvalidToken,
    RateLimited,
    Unavailable,
)
from appliance.services.accounts.passwords import Passwords
from tests.support.accounts import ADDRESS, PASSWORD, AccountsHarness, open_accounts_harness

LIMITS = AuthSettings(
    login_attempts_per_account=3, login_attempts_everywhere=8, login_attempts_per_address=5
)
ELSEWHERE = "198.51.100.9"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[AccountsHarness, None]:
    async with open_accounts_harness(tmp_path, LIMITS) as harness:
        await harness.add("alice")
        yield harness


@pytest.mark.parametrize("identifier", ["alice", "ALICE", " Alice ", "Alice@Example.COM"])
async def test_login_when_name_or_email_in_any_case_then_tokens(
    harness: AccountsHarness, identifier: str
) -> None:
    tokens = await harness.accounts.login.log_in(identifier, PASSWORD, ADDRESS)
    principal = await harness.accounts.authenticate(tokens.access_token)
    assert principal.user == tokens.user
    assert principal.user.username == "alice"
    assert tokens.expires_at == harness.clock() + 30 * 60


@pytest.mark.parametrize(
    ("identifier", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", PASSWORD + " "),
        ("alice", PASSWORD.upper()),
        ("alice", "x" * 5_000_000),
        ("alice", "\ud800" * 10),
        ("", PASSWORD),
        ("nobody", PASSWORD),
        ("alice' OR '1'='1' --", PASSWORD),
        ("alice\x00", PASSWORD),
        ("al\ud800ice", PASSWORD),
        ("аlice", PASSWORD),  # noqa: RUF001 - the first letter is Cyrillic
        ("%", PASSWORD),
        ("a" * 1_000_000, PASSWORD),
    ],
)
async def test_login_when_anything_is_wrong_then_one_and_the_same_answer(
    harness: AccountsHarness, identifier: str, password: str
) -> None:
    with pytest.raises(InvalidCredentials) as refused:
        await harness.accounts.login.log_in(identifier, password, ADDRESS)
    assert refused.value.message == "the email, username or password is wrong"
    assert refused.value.details == {}


async def test_login_when_user_is_unknown_then_a_hash_is_verified_all_the_same(
    harness: AccountsHarness,
) -> None:
    for identifier in ("alice", "nobody"):
        with pytest.raises(InvalidCredentials):
            await harness.accounts.login.log_in(identifier, "wrong", ADDRESS)
    known, unknown = harness.passwords.verified
    assert known is not None
    assert unknown is None


async def test_dummy_hash_when_verified_then_costs_the_real_parameters_and_never_matches() -> None:
    hasher = PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)
    passwords = Passwords(hasher)
    stand_in = passwords._dummy_hash  # pyright: ignore[reportPrivateUsage]
    assert not hasher.check_needs_rehash(stand_in)
    assert not await passwords.verify(None, PASSWORD)
    passwords.close()


async def test_login_when_password_is_huge_then_not_hashed(harness: AccountsHarness) -> None:
    for identifier in ("alice", "nobody"):
        with pytest.raises(InvalidCredentials):
            await harness.accounts.login.log_in(identifier, "x" * 1025, ADDRESS)
    assert harness.passwords.verified == []


async def test_login_when_password_is_composed_otherwise_then_the_same_password(
    harness: AccountsHarness,
) -> None:
    await harness.accounts.users.set_password("alice", "Stra\u00dfe f\u00fcr \u00e9t\u00e9")
    decomposed = "Stra\u00dfe fu\u0308r e\u0301te\u0301"
    assert await harness.accounts.login.log_in("alice", decomposed, ADDRESS)


async def test_login_when_user_is_disabled_then_only_the_right_password_learns_it(
    harness: AccountsHarness,
) -> None:
    await harness.accounts.users.set_disabled("alice", True)
    with pytest.raises(InvalidCredentials):
        await harness.accounts.login.log_in("alice", "wrong", ADDRESS)
    with pytest.raises(Forbidden, match="disabled"):
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)


async def fail(harness: AccountsHarness, identifier: str, address: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            await harness.accounts.login.log_in(identifier, "wrong", address)


async def test_login_when_the_pair_failed_too_often_then_the_right_password_has_to_wait_too(
    harness: AccountsHarness,
) -> None:
    await fail(harness, "alice", ADDRESS, 3)
    verified = len(harness.passwords.verified)
    with pytest.raises(RateLimited) as limited:
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    assert limited.value.retry_after == 1
    assert len(harness.passwords.verified) == verified
    assert await harness.accounts.login.log_in("alice", PASSWORD, ELSEWHERE)
    harness.clock.advance(1)
    assert await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)


async def test_login_when_an_attacker_guesses_then_sessions_and_known_addresses_go_on(
    harness: AccountsHarness,
) -> None:
    tokens = await harness.accounts.login.log_in("alice", PASSWORD, ELSEWHERE)
    for index in range(8):
        await fail(harness, "alice", f"203.0.113.{index}", 1)
    with pytest.raises(RateLimited, match="account"):
        await harness.accounts.login.log_in("alice", PASSWORD, "203.0.113.99")
    assert await harness.accounts.authenticate(tokens.access_token)
    assert await harness.accounts.sessions.rotate(tokens.refresh_token)
    assert await harness.accounts.login.log_in("alice", PASSWORD, ELSEWHERE)


async def test_login_when_failing_by_name_and_by_email_then_one_account(
    harness: AccountsHarness,
) -> None:
    await fail(harness, "alice", ADDRESS, 2)
    await fail(harness, "alice@example.com", ADDRESS, 1)
    with pytest.raises(RateLimited):
        await harness.accounts.login.log_in("ALICE", PASSWORD, ADDRESS)


async def test_login_when_unknown_user_failed_too_often_then_limited_like_a_known_one(
    harness: AccountsHarness,
) -> None:
    await fail(harness, "nobody", ADDRESS, 3)
    with pytest.raises(RateLimited, match="account"):
        await harness.accounts.login.log_in("Nobody", "wrong", ADDRESS)


async def test_login_when_address_tried_many_accounts_then_limited(
    harness: AccountsHarness,
) -> None:
    for index in range(5):
        await fail(harness, f"user{index}", ADDRESS, 1)
    with pytest.raises(RateLimited, match="address"):
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    assert await harness.accounts.login.log_in("alice", PASSWORD, ELSEWHERE)


async def test_login_when_it_succeeds_then_earlier_failures_are_forgiven(
    harness: AccountsHarness,
) -> None:
    for _ in range(2):
        await fail(harness, "alice", ADDRESS, 2)
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)


async def test_login_when_guesses_run_at_once_then_no_more_answers_than_one_by_one(
    harness: AccountsHarness,
) -> None:
    verify, all_are_here = harness.passwords.verify, asyncio.Barrier(20)

    async def together(password_hash: str | None, password: str) -> bool:
        await all_are_here.wait()
        return await verify(password_hash, password)

    harness.passwords.verify = together
    guesses = [
        harness.accounts.login.log_in("alice", f"guess {index}", ADDRESS) for index in range(20)
    ]
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    answered = [outcome for outcome in outcomes if isinstance(outcome, InvalidCredentials)]
    limited = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert len(answered) == 3
    assert len(limited) == 17


async def test_login_when_a_hundred_right_ones_run_at_once_then_all_succeed(
    harness: AccountsHarness,
) -> None:
    logins = [harness.accounts.login.log_in("alice", PASSWORD, ADDRESS) for _ in range(100)]
    pairs = await asyncio.gather(*logins)
    assert len({pair.refresh_token for pair in pairs}) == 100
    assert len({pair.access_token for pair in pairs}) == 100


async def test_login_when_there_are_too_many_sessions_then_the_oldest_ends_at_once(
    harness: AccountsHarness,
) -> None:
    first = await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    await harness.accounts.authenticate(first.access_token)
    for _ in range(99):
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    assert await harness.accounts.authenticate(first.access_token)
    last = await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(first.access_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(first.refresh_token)
    assert await harness.accounts.authenticate(last.access_token)
    assert await harness.scalar("SELECT count(*) FROM sessions") == 100


async def test_login_when_password_changes_while_it_is_checked_then_no_session(
    harness: AccountsHarness,
) -> None:
    verify = harness.passwords.verify

    async def slowly(password_hash: str | None, password: str) -> bool:
        right = await verify(password_hash, password)
        await harness.accounts.users.set_password("alice", "another password")
        return right

    harness.passwords.verify = slowly
    with pytest.raises(InvalidCredentials):
        await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    assert await harness.scalar("SELECT count(*) FROM sessions") == 0


async def test_login_when_the_hash_is_of_weaker_parameters_then_renewed(
    harness: AccountsHarness,
) -> None:
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    async with harness.db.write() as tx:
        await tx.execute("UPDATE users SET password_hash = :old", {"old": old})
    assert await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    renewed = await harness.scalar("SELECT password_hash FROM users")
    assert isinstance(renewed, str)
    assert not harness.passwords.is_outdated(renewed)
    assert await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)


async def test_passwords_when_too_many_wait_then_unavailable_and_never_more_at_once() -> None:
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    passwords = Passwords(hasher, workers=1, queue_limit=9)
    checks = [passwords.verify(None, "x") for _ in range(100)]
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    assert sum(outcome is False for outcome in outcomes) == 10
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    assert len(refused) == 90
    assert refused[0].retry_after
    assert not await passwords.verify(None, "x")
    passwords.close()
