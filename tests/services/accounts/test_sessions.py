"""Sessions: refresh tokens that work once, and everything that ends a session."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.config.settings import AuthSettings
from appliance.domain.users import Principal, Role, TokenPair
from appliance.errors import InvalidToken, TokenExpired, Unauthenticated
from appliance.services.accounts import tokens
from appliance.services.accounts.service import AccountService
from appliance.services.accounts.tokens import AccessTokens
from appliance.store.sqlite.database import Database
from tests.support.accounts import ADDRESS, PASSWORD, SECRET, Accounts, accounts_in

DAY_S = 86400.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Accounts, None]:
    async with accounts_in(tmp_path) as accounts:
        await accounts.add("alice")
        yield accounts


@pytest.fixture
async def pair(box: Accounts) -> TokenPair:
    return await box.service.login("alice", PASSWORD, ADDRESS)


async def test_refresh_when_token_is_fresh_then_new_tokens_and_the_session_goes_on(
    box: Accounts, pair: TokenPair
) -> None:
    box.clock.advance(60)
    renewed = await box.service.refresh(pair.refresh_token)
    assert renewed.refresh_token != pair.refresh_token
    assert renewed.expires_at == pair.expires_at + 60
    first = await box.service.authenticate(pair.access_token)
    assert (await box.service.authenticate(renewed.access_token)).session_id == first.session_id


async def test_refresh_when_token_is_used_again_then_the_whole_family_is_dead(
    box: Accounts, pair: TokenPair
) -> None:
    second = await box.service.refresh(pair.refresh_token)
    third = await box.service.refresh(second.refresh_token)
    await box.service.authenticate(third.access_token)
    with pytest.raises(InvalidToken, match="used before"):
        await box.service.refresh(pair.refresh_token)
    for dead in (pair, second, third):
        with pytest.raises(InvalidToken):
            await box.service.refresh(dead.refresh_token)
        with pytest.raises(InvalidToken):
            await box.service.authenticate(dead.access_token)


async def test_refresh_when_one_family_is_dead_then_other_logins_live(
    box: Accounts, pair: TokenPair
) -> None:
    other = await box.service.login("alice", PASSWORD, ADDRESS)
    await box.service.refresh(pair.refresh_token)
    with pytest.raises(InvalidToken):
        await box.service.refresh(pair.refresh_token)
    assert await box.service.authenticate(other.access_token)
    assert await box.service.refresh(other.refresh_token)


async def test_refresh_when_used_twice_at_once_then_one_wins_and_the_family_is_dead(
    box: Accounts, pair: TokenPair
) -> None:
    uses = [box.service.refresh(pair.refresh_token) for _ in range(10)]
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, TokenPair)]
    assert len(won) == 1
    assert all(isinstance(outcome, TokenPair | InvalidToken) for outcome in outcomes)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(won[0].access_token)
    with pytest.raises(InvalidToken):
        await box.service.refresh(won[0].refresh_token)


async def test_refresh_when_token_is_too_old_then_expired(box: Accounts, pair: TokenPair) -> None:
    box.clock.advance(30 * DAY_S)
    with pytest.raises(TokenExpired):
        await box.service.refresh(pair.refresh_token)


async def test_refresh_when_done_in_time_then_the_session_outlives_the_first_token(
    box: Accounts, pair: TokenPair
) -> None:
    for _ in range(4):
        box.clock.advance(20 * DAY_S)
        pair = await box.service.refresh(pair.refresh_token)
    assert await box.service.authenticate(pair.access_token)


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
async def test_refresh_when_token_is_made_up_then_invalid(box: Accounts, token: str) -> None:
    with pytest.raises(InvalidToken):
        await box.service.refresh(token)


async def test_refresh_when_given_another_kind_then_invalid(box: Accounts, pair: TokenPair) -> None:
    for other in (pair.access_token, await box.key_of("alice")):
        with pytest.raises(InvalidToken, match="not a refresh token"):
            await box.service.refresh(other)
    assert await box.service.refresh(pair.refresh_token)


async def test_authenticate_when_given_a_refresh_token_then_invalid(
    box: Accounts, pair: TokenPair
) -> None:
    with pytest.raises(InvalidToken, match="refresh token"):
        await box.service.authenticate(pair.refresh_token)


async def test_authenticate_when_nothing_is_given_then_unauthenticated(box: Accounts) -> None:
    with pytest.raises(Unauthenticated):
        await box.service.authenticate("")


async def test_access_token_when_its_time_is_over_then_expired_though_it_was_just_used(
    box: Accounts, pair: TokenPair
) -> None:
    box.clock.now = pair.expires_at - 1
    assert await box.service.authenticate(pair.access_token)
    box.clock.now = pair.expires_at
    with pytest.raises(TokenExpired):
        await box.service.authenticate(pair.access_token)


async def test_access_token_when_subject_is_another_user_then_invalid(
    box: Accounts, pair: TokenPair
) -> None:
    other = await box.add("bob")
    session = (await box.service.authenticate(pair.access_token)).session_id
    forged, _ = AccessTokens(SECRET, 60).issue(other.public_id, str(session), box.clock())
    with pytest.raises(InvalidToken):
        await box.service.authenticate(forged)


async def test_access_token_when_session_is_unknown_then_invalid(
    box: Accounts, pair: TokenPair
) -> None:
    made_up, _ = AccessTokens(SECRET, 60).issue(pair.user.public_id, "ses_x", box.clock())
    with pytest.raises(InvalidToken):
        await box.service.authenticate(made_up)


async def test_access_token_when_the_box_has_another_secret_then_invalid(
    box: Accounts, pair: TokenPair
) -> None:
    other = AccountService(box.db, AuthSettings(), b"x" * 32, clock=box.clock)
    with pytest.raises(InvalidToken):
        await other.authenticate(pair.access_token)
    await other.close()


async def test_logout_when_done_then_session_ends_at_once_and_others_go_on(
    box: Accounts, pair: TokenPair
) -> None:
    other = await box.service.login("alice", PASSWORD, ADDRESS)
    principal = await box.service.authenticate(pair.access_token)
    await box.service.logout(principal, pair.refresh_token)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(pair.access_token)
    with pytest.raises(InvalidToken):
        await box.service.refresh(pair.refresh_token)
    assert await box.service.authenticate(other.access_token)


async def test_logout_when_only_the_session_is_known_then_its_refresh_token_is_dead(
    box: Accounts, pair: TokenPair
) -> None:
    await box.service.logout(await box.service.authenticate(pair.access_token), None)
    with pytest.raises(InvalidToken):
        await box.service.refresh(pair.refresh_token)


async def test_logout_when_called_with_a_key_then_ends_the_refresh_tokens_session(
    box: Accounts, pair: TokenPair
) -> None:
    by_key = await box.service.authenticate(await box.key_of("alice"))
    await box.service.logout(by_key, pair.refresh_token)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(pair.access_token)


@pytest.mark.parametrize("token", ["x", "mcr-x", "mcr-" + "a" * 43])
async def test_logout_when_refresh_token_is_garbage_then_still_logged_out(
    box: Accounts, pair: TokenPair, token: str
) -> None:
    await box.service.logout(await box.service.authenticate(pair.access_token), token)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(pair.access_token)


async def test_logout_when_refresh_token_is_another_users_then_that_one_lives(
    box: Accounts, pair: TokenPair
) -> None:
    await box.add("mallory")
    await box.service.logout(await box.logged_in("mallory"), pair.refresh_token)
    assert await box.service.authenticate(pair.access_token)
    assert await box.service.refresh(pair.refresh_token)


async def test_set_password_when_done_then_all_sessions_end_at_once(
    box: Accounts, pair: TokenPair
) -> None:
    await box.service.authenticate(pair.access_token)
    await box.service.set_password("alice", "another password")
    with pytest.raises(InvalidToken):
        await box.service.authenticate(pair.access_token)
    with pytest.raises(InvalidToken):
        await box.service.refresh(pair.refresh_token)
    assert await box.service.login("alice", "another password", ADDRESS)


async def test_disable_when_done_then_sessions_and_keys_stop_and_only_keys_come_back(
    box: Accounts, pair: TokenPair
) -> None:
    key = await box.key_of("alice")
    await box.service.authenticate(pair.access_token)
    await box.service.authenticate(key)
    await box.service.set_disabled("alice", True)
    for credential in (pair.access_token, key):
        with pytest.raises(InvalidToken):
            await box.service.authenticate(credential)
    with pytest.raises(InvalidToken):
        await box.service.refresh(pair.refresh_token)
    await box.service.set_disabled("alice", False)
    assert await box.service.authenticate(key)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(pair.access_token)


async def test_authenticate_when_a_revocation_overtakes_its_query_then_not_remembered(
    box: Accounts, pair: TokenPair
) -> None:
    """Whatever the order of the two, nothing of a revoked session stays in the cache."""
    for _ in range(20):
        pair = await box.service.login("alice", PASSWORD, ADDRESS)
        principal = Principal(
            user=pair.user, scopes=frozenset(), session_id=(await session_of(box, pair))
        )
        await asyncio.gather(
            box.service.authenticate(pair.access_token),
            box.service.logout(principal, None),
            box.service.authenticate(pair.access_token),
            return_exceptions=True,
        )
        with pytest.raises(InvalidToken):
            await box.service.authenticate(pair.access_token)


async def session_of(box: Accounts, pair: TokenPair) -> str:
    return AccessTokens(SECRET, 60).read(pair.access_token, box.clock()).sid


async def test_viewer_when_logged_in_then_may_read_and_not_write(box: Accounts) -> None:
    await box.add("vera", Role.VIEWER)
    principal = await box.logged_in("vera")
    assert principal.scopes == {"tasks:read", "keys"}


async def test_tokens_when_stored_then_only_as_hashes(box: Accounts, pair: TokenPair) -> None:
    stored = await box.scalar("SELECT token_hash FROM refresh_tokens")
    assert stored == tokens.refresh_hash(pair.refresh_token)
    assert stored != pair.refresh_token


async def test_authenticate_when_repeated_then_needs_no_query(
    box: Accounts, pair: TokenPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await box.service.authenticate(pair.access_token)

    def no_query(_: Database) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(Database, "read", no_query)
    assert await box.service.authenticate(pair.access_token) is first
