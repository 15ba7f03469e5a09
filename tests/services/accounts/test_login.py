"""Logging in: right and wrong, slow guessing, and nothing told about who exists."""

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
from tests.support.accounts import ADDRESS, PASSWORD, Accounts, accounts_in

LIMITS = AuthSettings(login_attempts_per_account=3, login_attempts_per_address=5)
ELSEWHERE = "198.51.100.9"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Accounts, None]:
    async with accounts_in(tmp_path, LIMITS) as accounts:
        await accounts.add("alice")
        yield accounts


@pytest.mark.parametrize("identifier", ["alice", "ALICE", " Alice ", "Alice@Example.COM"])
async def test_login_when_name_or_email_in_any_case_then_tokens(
    box: Accounts, identifier: str
) -> None:
    tokens = await box.service.login(identifier, PASSWORD, ADDRESS)
    principal = await box.service.authenticate(tokens.access_token)
    assert principal.user == tokens.user
    assert principal.user.username == "alice"
    assert tokens.expires_at == box.clock() + 30 * 60


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
    box: Accounts, identifier: str, password: str
) -> None:
    with pytest.raises(InvalidCredentials) as refused:
        await box.service.login(identifier, password, ADDRESS)
    assert refused.value.message == "the email, username or password is wrong"
    assert refused.value.details == {}


async def test_login_when_user_is_unknown_then_a_hash_is_verified_all_the_same(
    box: Accounts,
) -> None:
    for identifier in ("alice", "nobody"):
        with pytest.raises(InvalidCredentials):
            await box.service.login(identifier, "wrong", ADDRESS)
    known, unknown = box.passwords.verified
    assert known is not None
    assert unknown is None


async def test_stand_in_hash_when_verified_then_costs_the_real_parameters_and_never_matches() -> (
    None
):
    hasher = PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)
    passwords = Passwords(hasher)
    stand_in = passwords._stand_in  # pyright: ignore[reportPrivateUsage]
    assert not hasher.check_needs_rehash(stand_in)
    assert not await passwords.verify(None, PASSWORD)
    passwords.close()


async def test_login_when_password_is_huge_then_not_hashed(box: Accounts) -> None:
    for identifier in ("alice", "nobody"):
        with pytest.raises(InvalidCredentials):
            await box.service.login(identifier, "x" * 1025, ADDRESS)
    assert box.passwords.verified == []


async def test_login_when_password_is_composed_otherwise_then_the_same_password(
    box: Accounts,
) -> None:
    await box.service.set_password("alice", "Stra\u00dfe f\u00fcr \u00e9t\u00e9")
    decomposed = "Stra\u00dfe fu\u0308r e\u0301te\u0301"
    assert await box.service.login("alice", decomposed, ADDRESS)


async def test_login_when_user_is_disabled_then_only_the_right_password_learns_it(
    box: Accounts,
) -> None:
    await box.service.set_disabled("alice", True)
    with pytest.raises(InvalidCredentials):
        await box.service.login("alice", "wrong", ADDRESS)
    with pytest.raises(Forbidden, match="disabled"):
        await box.service.login("alice", PASSWORD, ADDRESS)


async def fail(box: Accounts, identifier: str, address: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(InvalidCredentials):
            await box.service.login(identifier, "wrong", address)


async def test_login_when_account_failed_too_often_then_the_right_password_is_limited_too(
    box: Accounts,
) -> None:
    await fail(box, "alice", ADDRESS, 3)
    verified = len(box.passwords.verified)
    with pytest.raises(RateLimited) as limited:
        await box.service.login("alice", PASSWORD, ELSEWHERE)
    assert 0 < (limited.value.retry_after or 0) <= LIMITS.login_window_s
    assert len(box.passwords.verified) == verified


async def test_login_when_failing_by_name_and_by_email_then_one_account(box: Accounts) -> None:
    await fail(box, "alice", ADDRESS, 2)
    await fail(box, "alice@example.com", ADDRESS, 1)
    with pytest.raises(RateLimited):
        await box.service.login("ALICE", PASSWORD, ELSEWHERE)


async def test_login_when_unknown_user_failed_too_often_then_limited_like_a_known_one(
    box: Accounts,
) -> None:
    await fail(box, "nobody", ADDRESS, 3)
    with pytest.raises(RateLimited, match="account"):
        await box.service.login("Nobody", "wrong", ELSEWHERE)


async def test_login_when_address_tried_many_accounts_then_limited(box: Accounts) -> None:
    for index in range(5):
        await fail(box, f"user{index}", ADDRESS, 1)
    with pytest.raises(RateLimited, match="address"):
        await box.service.login("alice", PASSWORD, ADDRESS)
    assert await box.service.login("alice", PASSWORD, ELSEWHERE)


async def test_login_when_it_succeeds_then_earlier_failures_are_forgiven(box: Accounts) -> None:
    for _ in range(2):
        await fail(box, "alice", ADDRESS, 2)
        await box.service.login("alice", PASSWORD, ADDRESS)


async def test_login_when_guesses_run_at_once_then_no_more_answers_than_one_by_one(
    box: Accounts,
) -> None:
    verify, all_are_here = box.passwords.verify, asyncio.Barrier(20)

    async def together(password_hash: str | None, password: str) -> bool:
        await all_are_here.wait()
        return await verify(password_hash, password)

    box.passwords.verify = together
    guesses = [box.service.login("alice", f"guess {index}", ADDRESS) for index in range(20)]
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    answered = [outcome for outcome in outcomes if isinstance(outcome, InvalidCredentials)]
    limited = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert len(answered) == 3
    assert len(limited) == 17


async def test_login_when_a_hundred_right_ones_run_at_once_then_all_succeed(box: Accounts) -> None:
    logins = [box.service.login("alice", PASSWORD, ADDRESS) for _ in range(100)]
    pairs = await asyncio.gather(*logins)
    assert len({pair.refresh_token for pair in pairs}) == 100
    assert len({pair.access_token for pair in pairs}) == 100


async def test_login_when_there_are_too_many_sessions_then_the_oldest_ends_at_once(
    box: Accounts,
) -> None:
    first = await box.service.login("alice", PASSWORD, ADDRESS)
    await box.service.authenticate(first.access_token)
    for _ in range(99):
        await box.service.login("alice", PASSWORD, ADDRESS)
    assert await box.service.authenticate(first.access_token)
    last = await box.service.login("alice", PASSWORD, ADDRESS)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(first.access_token)
    with pytest.raises(InvalidToken):
        await box.service.refresh(first.refresh_token)
    assert await box.service.authenticate(last.access_token)
    assert await box.scalar("SELECT count(*) FROM sessions") == 100


async def test_login_when_password_changes_while_it_is_checked_then_no_session(
    box: Accounts,
) -> None:
    verify = box.passwords.verify

    async def slowly(password_hash: str | None, password: str) -> bool:
        right = await verify(password_hash, password)
        await box.service.set_password("alice", "another password")
        return right

    box.passwords.verify = slowly
    with pytest.raises(InvalidCredentials):
        await box.service.login("alice", PASSWORD, ADDRESS)
    assert await box.scalar("SELECT count(*) FROM sessions") == 0


async def test_login_when_the_hash_is_of_weaker_parameters_then_renewed(box: Accounts) -> None:
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    async with box.db.write() as tx:
        await tx.execute("UPDATE users SET password_hash = :old", {"old": old})
    assert await box.service.login("alice", PASSWORD, ADDRESS)
    renewed = await box.scalar("SELECT password_hash FROM users")
    assert isinstance(renewed, str)
    assert not box.passwords.is_outdated(renewed)
    assert await box.service.login("alice", PASSWORD, ADDRESS)


async def test_passwords_when_too_many_wait_then_unavailable_and_never_more_at_once() -> None:
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    passwords = Passwords(hasher, workers=1, waiting=9)
    checks = [passwords.verify(None, "x") for _ in range(100)]
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    assert sum(outcome is False for outcome in outcomes) == 10
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    assert len(refused) == 90
    assert refused[0].retry_after
    assert not await passwords.verify(None, "x")
    passwords.close()
