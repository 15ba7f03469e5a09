"""Sessions: one-time refresh tokens, and everything that ends a session."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.config.settings import AuthSettings
from appliance.domain.users import Principal, Role, TokenPair
from appliance.errors import InvalidToken, TokenExpired, Unauthenticated
from appliance.services.accounts import tokens
from appliance.services.accounts.service import build_accounts
from appliance.services.accounts.tokens import AccessTokens
from appliance.store.sqlite.database import Database
from tests.support.accounts import ADDRESS, PASSWORD, SECRET, AccountsHarness, open_accounts_harness

DAY_S = 86400.0


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[AccountsHarness, None]:
    async with open_accounts_harness(tmp_path) as harness:
        await harness.add("alice")
        yield harness


@pytest.fixture
async def pair(harness: AccountsHarness) -> TokenPair:
    return await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)


async def test_refresh_when_token_is_fresh_then_new_tokens_and_the_session_goes_on(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    harness.clock.advance(60)
    renewed = await harness.accounts.sessions.rotate(pair.refresh_token)
    assert renewed.refresh_token != pair.refresh_token
    assert renewed.expires_at == pair.expires_at + 60
    first = await harness.accounts.authenticate(pair.access_token)
    assert (
        await harness.accounts.authenticate(renewed.access_token)
    ).session_id == first.session_id


async def test_refresh_when_token_is_used_again_then_the_whole_family_is_dead(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    second = await harness.accounts.sessions.rotate(pair.refresh_token)
    third = await harness.accounts.sessions.rotate(second.refresh_token)
    await harness.accounts.authenticate(third.access_token)
    with pytest.raises(InvalidToken, match="used before"):
        await harness.accounts.sessions.rotate(pair.refresh_token)
    for dead in (pair, second, third):
        with pytest.raises(InvalidToken):
            await harness.accounts.sessions.rotate(dead.refresh_token)
        with pytest.raises(InvalidToken):
            await harness.accounts.authenticate(dead.access_token)


async def test_refresh_when_one_family_is_dead_then_other_logins_live(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    other = await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    await harness.accounts.sessions.rotate(pair.refresh_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(pair.refresh_token)
    assert await harness.accounts.authenticate(other.access_token)
    assert await harness.accounts.sessions.rotate(other.refresh_token)


async def test_refresh_when_used_twice_at_once_then_one_wins_and_the_family_is_dead(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    uses = [harness.accounts.sessions.rotate(pair.refresh_token) for _ in range(10)]
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, TokenPair)]
    assert len(won) == 1
    assert all(isinstance(outcome, TokenPair | InvalidToken) for outcome in outcomes)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(won[0].access_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(won[0].refresh_token)


async def test_refresh_when_token_is_too_old_then_expired(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    harness.clock.advance(30 * DAY_S)
    with pytest.raises(TokenExpired):
        await harness.accounts.sessions.rotate(pair.refresh_token)


async def test_refresh_when_done_in_time_then_the_session_outlives_the_first_token(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    for _ in range(4):
        harness.clock.advance(20 * DAY_S)
        pair = await harness.accounts.sessions.rotate(pair.refresh_token)
    assert await harness.accounts.authenticate(pair.access_token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "mcr-",
        "mcr-' OR 1=1 --",
        "mcr-" + "a" * 43,
        "mcr-" + "é" * 43,
        "\ud800",
        "x" * 10**6,
    ],
)
async def test_refresh_when_token_is_made_up_then_invalid(
    harness: AccountsHarness, token: str
) -> None:
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(token)


async def test_refresh_when_given_another_kind_then_invalid(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    for other in (pair.access_token, await harness.create_key("alice")):
        with pytest.raises(InvalidToken, match="not a refresh token"):
            await harness.accounts.sessions.rotate(other)
    assert await harness.accounts.sessions.rotate(pair.refresh_token)


async def test_authenticate_when_given_a_refresh_token_then_invalid(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    with pytest.raises(InvalidToken, match="refresh token"):
        await harness.accounts.authenticate(pair.refresh_token)


async def test_authenticate_when_nothing_is_given_then_unauthenticated(
    harness: AccountsHarness,
) -> None:
    with pytest.raises(Unauthenticated):
        await harness.accounts.authenticate("")


async def test_access_token_when_its_time_is_over_then_expired_though_it_was_just_used(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    harness.clock.now = pair.expires_at - 1
    assert await harness.accounts.authenticate(pair.access_token)
    harness.clock.now = pair.expires_at
    with pytest.raises(TokenExpired):
        await harness.accounts.authenticate(pair.access_token)


async def test_access_token_when_subject_is_another_user_then_invalid(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    other = await harness.add("bob")
    session = (await harness.accounts.authenticate(pair.access_token)).session_id
    forged, _ = AccessTokens(SECRET, 60).issue(other.public_id, str(session), harness.clock())
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(forged)


async def test_access_token_when_session_is_unknown_then_invalid(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    made_up, _ = AccessTokens(SECRET, 60).issue(pair.user.public_id, "ses_x", harness.clock())
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(made_up)


async def test_access_token_when_the_server_has_another_secret_then_invalid(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    other = build_accounts(harness.db, AuthSettings(), b"x" * 32, clock=harness.clock)
    with pytest.raises(InvalidToken):
        await other.authenticate(pair.access_token)
    await other.close()


async def test_logout_when_done_then_session_ends_at_once_and_others_go_on(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    other = await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
    principal = await harness.accounts.authenticate(pair.access_token)
    await harness.accounts.sessions.end(principal, pair.refresh_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(pair.access_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(pair.refresh_token)
    assert await harness.accounts.authenticate(other.access_token)


async def test_logout_when_only_the_session_is_known_then_its_refresh_token_is_dead(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    await harness.accounts.sessions.end(
        await harness.accounts.authenticate(pair.access_token), None
    )
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(pair.refresh_token)


async def test_logout_when_called_with_a_key_then_ends_the_refresh_tokens_session(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    by_key = await harness.accounts.authenticate(await harness.create_key("alice"))
    await harness.accounts.sessions.end(by_key, pair.refresh_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(pair.access_token)


@pytest.mark.parametrize("token", ["x", "mcr-x", "mcr-" + "a" * 43])
async def test_logout_when_refresh_token_is_garbage_then_still_logged_out(
    harness: AccountsHarness, pair: TokenPair, token: str
) -> None:
    await harness.accounts.sessions.end(
        await harness.accounts.authenticate(pair.access_token), token
    )
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(pair.access_token)


async def test_logout_when_refresh_token_is_another_users_then_that_one_lives(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    await harness.add("mallory")
    await harness.accounts.sessions.end(await harness.log_in("mallory"), pair.refresh_token)
    assert await harness.accounts.authenticate(pair.access_token)
    assert await harness.accounts.sessions.rotate(pair.refresh_token)


async def test_set_password_when_done_then_all_sessions_end_at_once(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    await harness.accounts.authenticate(pair.access_token)
    await harness.accounts.users.set_password("alice", "another password")
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(pair.access_token)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(pair.refresh_token)
    assert await harness.accounts.login.log_in("alice", "another password", ADDRESS)


async def test_disable_when_done_then_sessions_and_keys_stop_and_only_keys_come_back(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    key = await harness.create_key("alice")
    await harness.accounts.authenticate(pair.access_token)
    await harness.accounts.authenticate(key)
    await harness.accounts.users.set_disabled("alice", True)
    for credential in (pair.access_token, key):
        with pytest.raises(InvalidToken):
            await harness.accounts.authenticate(credential)
    with pytest.raises(InvalidToken):
        await harness.accounts.sessions.rotate(pair.refresh_token)
    await harness.accounts.users.set_disabled("alice", False)
    assert await harness.accounts.authenticate(key)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(pair.access_token)


async def test_authenticate_when_a_revocation_overtakes_its_query_then_not_remembered(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    """Whatever the order of the two, nothing of a revoked session stays in the cache."""
    for _ in range(20):
        pair = await harness.accounts.login.log_in("alice", PASSWORD, ADDRESS)
        principal = Principal(
            user=pair.user, scopes=frozenset(), session_id=(await session_of(harness, pair))
        )
        await asyncio.gather(
            harness.accounts.authenticate(pair.access_token),
            harness.accounts.sessions.end(principal, None),
            harness.accounts.authenticate(pair.access_token),
            return_exceptions=True,
        )
        with pytest.raises(InvalidToken):
            await harness.accounts.authenticate(pair.access_token)


async def session_of(harness: AccountsHarness, pair: TokenPair) -> str:
    return AccessTokens(SECRET, 60).verify(pair.access_token, harness.clock()).sid


async def test_viewer_when_logged_in_then_may_read_and_not_write(harness: AccountsHarness) -> None:
    await harness.add("vera", Role.VIEWER)
    principal = await harness.log_in("vera")
    assert principal.scopes == {"tasks:read", "keys"}


async def test_tokens_when_stored_then_only_as_hashes(
    harness: AccountsHarness, pair: TokenPair
) -> None:
    stored = await harness.scalar("SELECT token_hash FROM refresh_tokens")
    assert stored == tokens.hash_refresh_token(pair.refresh_token)
    assert stored != pair.refresh_token


async def test_authenticate_when_repeated_then_needs_no_query(
    harness: AccountsHarness, pair: TokenPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await harness.accounts.authenticate(pair.access_token)

    def no_query(_: Database) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(Database, "read", no_query)
    assert await harness.accounts.authenticate(pair.access_token) is first
