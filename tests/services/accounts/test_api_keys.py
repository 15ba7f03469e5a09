"""API keys: scopes, expiry, limits, immediate revocation."""

import asyncio
import math
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.domain.users import ApiKey, KeyStats, KeyStatus, Principal, Role, Scope
from appliance.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidToken,
    NotFound,
    TokenExpired,
    Unavailable,
)
from appliance.services.accounts import tokens
from appliance.store.sqlite.database import Database
from tests.support.accounts import AccountsHarness, open_accounts_harness

DAY_S = 86400.0


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncGenerator[AccountsHarness, None]:
    async with open_accounts_harness(tmp_path) as harness:
        await harness.add("alice")
        yield harness


@pytest.fixture
async def alice(harness: AccountsHarness) -> Principal:
    return await harness.log_in("alice")


async def only_key(harness: AccountsHarness, principal: Principal) -> ApiKey:
    [key] = await harness.accounts.keys.list_own(principal)
    return key


async def test_create_when_asked_then_key_works_and_only_its_hash_is_kept(
    harness: AccountsHarness, alice: Principal
) -> None:
    key, secret = await harness.accounts.keys.create(alice, " CI ", ["tasks:read"], None)
    assert (key.name, key.scopes, key.status) == ("CI", ("tasks:read",), KeyStatus.ACTIVE)
    assert secret.startswith(key.prefix)
    principal = await harness.accounts.authenticate(secret)
    assert (principal.user, principal.key_id) == (alice.user, key.id)
    assert principal.may(Scope.TASKS_READ)
    assert not principal.may(Scope.TASKS_WRITE)
    assert await harness.scalar("SELECT key_hash FROM api_keys") == tokens.hash_api_key(secret)
    dump = await harness.scalar("SELECT group_concat(name || prefix || key_hash) FROM api_keys")
    assert secret not in str(dump)


async def test_create_when_no_scope_is_asked_for_then_the_makers_own(
    harness: AccountsHarness, alice: Principal
) -> None:
    everything, _ = await harness.accounts.keys.create(alice, "all", [], None)
    assert everything.scopes == ("*",)
    reader = await harness.accounts.authenticate(
        await harness.create_key("alice", "keys", "tasks:read")
    )
    same, _ = await harness.accounts.keys.create(reader, "same", [], None)
    assert same.scopes == ("keys", "tasks:read")


@pytest.mark.parametrize("scope", ["*", "tasks:write"])
async def test_create_when_scope_is_beyond_the_makers_then_forbidden(
    harness: AccountsHarness, scope: str
) -> None:
    maker = await harness.accounts.authenticate(
        await harness.create_key("alice", "keys", "tasks:read")
    )
    with pytest.raises(Forbidden) as refused:
        await harness.accounts.keys.create(maker, "more", ["tasks:read", scope], None)
    assert refused.value.details == {"scope": scope}


async def test_create_when_key_lacks_the_scope_for_keys_then_forbidden(
    harness: AccountsHarness,
) -> None:
    principal = await harness.accounts.authenticate(await harness.create_key("alice", "tasks:read"))
    with pytest.raises(Forbidden, match="keys"):
        await harness.accounts.keys.create(principal, "another", [], None)
    with pytest.raises(Forbidden, match="keys"):
        await harness.accounts.keys.list_own(principal)
    with pytest.raises(Forbidden, match="keys"):
        await harness.accounts.keys.revoke(principal, "key_x")


async def test_create_when_maker_is_a_viewer_then_no_right_to_write(
    harness: AccountsHarness,
) -> None:
    await harness.add("vera", Role.VIEWER)
    vera = await harness.log_in("vera")
    with pytest.raises(Forbidden):
        await harness.accounts.keys.create(vera, "x", ["tasks:write"], None)
    with pytest.raises(Forbidden):
        await harness.accounts.keys.create(vera, "x", ["*"], None)
    _, secret = await harness.accounts.keys.create(vera, "x", [], None)
    assert not (await harness.accounts.authenticate(secret)).may(Scope.TASKS_WRITE)


@pytest.mark.parametrize("scope", ["root", "", "TASKS:READ", "tasks:read ", "x" * 10**6])
async def test_create_when_scope_is_unknown_then_invalid(
    harness: AccountsHarness, alice: Principal, scope: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await harness.accounts.keys.create(alice, "x", [scope], None)
    assert refused.value.details["field"] == "scopes"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "\ud800", "x" * 101, "a\u202eb"])
async def test_create_when_name_is_bad_then_invalid(
    harness: AccountsHarness, alice: Principal, name: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await harness.accounts.keys.create(alice, name, [], None)
    assert refused.value.details["field"] == "name"


@pytest.mark.parametrize("ahead_s", [0.0, -1.0, -math.inf, math.inf, math.nan, 1e18])
async def test_create_when_expiry_is_not_ahead_then_invalid(
    harness: AccountsHarness, alice: Principal, ahead_s: float
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await harness.accounts.keys.create(alice, "x", [], harness.clock() + ahead_s)
    assert refused.value.details["field"] == "expires_at"


async def test_create_when_made_with_a_key_then_can_not_outlive_it(
    harness: AccountsHarness,
) -> None:
    end = harness.clock() + DAY_S
    maker = await harness.accounts.authenticate(await harness.create_key("alice", expires_at=end))
    inherited, _ = await harness.accounts.keys.create(maker, "child", [], None)
    assert inherited.expires_at == end
    with pytest.raises(InvalidInput, match="later"):
        await harness.accounts.keys.create(maker, "child", [], end + 1)


async def test_create_when_the_making_key_was_just_revoked_then_refused(
    harness: AccountsHarness, alice: Principal
) -> None:
    maker = await harness.accounts.authenticate(await harness.create_key("alice"))
    await harness.accounts.keys.revoke(alice, (await only_key(harness, alice)).public_id)
    with pytest.raises(InvalidToken):
        await harness.accounts.keys.create(maker, "child", [], None)


async def test_create_when_a_user_has_too_many_then_conflict_until_one_is_revoked(
    harness: AccountsHarness, alice: Principal
) -> None:
    keys = [await harness.accounts.keys.create(alice, f"{n}", [], None) for n in range(100)]
    with pytest.raises(Conflict) as refused:
        await harness.accounts.keys.create(alice, "one more", [], None)
    assert refused.value.details == {"limit": 100}
    await harness.accounts.keys.revoke(alice, keys[0][0].public_id)
    both = [harness.accounts.keys.create(alice, "race", [], None) for _ in range(2)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1


async def test_key_when_revoked_while_remembered_then_refused_at_once(
    harness: AccountsHarness, alice: Principal
) -> None:
    secret = await harness.create_key("alice")
    await harness.accounts.authenticate(secret)
    revoked = await harness.accounts.keys.revoke(alice, (await only_key(harness, alice)).public_id)
    assert revoked.status is KeyStatus.REVOKED
    with pytest.raises(InvalidToken, match="revoked"):
        await harness.accounts.authenticate(secret)
    again = await harness.accounts.keys.revoke(alice, revoked.public_id)
    assert again.status is KeyStatus.REVOKED


async def test_key_when_its_maker_is_revoked_then_revoked_with_it(
    harness: AccountsHarness, alice: Principal
) -> None:
    parent_secret = await harness.create_key("alice")
    parent = await only_key(harness, alice)
    child = await harness.accounts.keys.create(
        await harness.accounts.authenticate(parent_secret), "child", [], None
    )
    grandchild = await harness.accounts.keys.create(
        await harness.accounts.authenticate(child[1]), "grandchild", [], None
    )
    unrelated = await harness.create_key("alice")
    await harness.accounts.authenticate(grandchild[1])
    await harness.accounts.keys.revoke(alice, parent.public_id)
    for secret in (parent_secret, child[1], grandchild[1]):
        with pytest.raises(InvalidToken, match="revoked"):
            await harness.accounts.authenticate(secret)
    assert await harness.accounts.authenticate(unrelated)


async def test_key_when_it_expires_while_remembered_then_expired(harness: AccountsHarness) -> None:
    secret = await harness.create_key("alice", expires_at=harness.clock() + 10)
    assert await harness.accounts.authenticate(secret)
    harness.clock.advance(10)
    with pytest.raises(TokenExpired):
        await harness.accounts.authenticate(secret)


@pytest.mark.parametrize(
    "secret",
    ["mk-", "mk-YOUR_API_KEY", "mk-' OR '1'='1", "mk-" + "a" * 43, "mk-\ud800", "mk-" + "é" * 43],
)
async def test_key_when_made_up_then_invalid(harness: AccountsHarness, secret: str) -> None:
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(secret)


async def test_key_when_its_stored_hash_is_presented_then_invalid(harness: AccountsHarness) -> None:
    await harness.create_key("alice")
    stored = str(await harness.scalar("SELECT key_hash FROM api_keys"))
    for guess in (stored, f"mk-{stored}", f"mk-{stored[:43]}"):
        with pytest.raises(InvalidToken):
            await harness.accounts.authenticate(guess)


async def test_revoke_when_key_is_another_users_then_not_found_but_not_for_an_administrator(
    harness: AccountsHarness, alice: Principal
) -> None:
    secret = await harness.create_key("alice")
    key = await only_key(harness, alice)
    await harness.add("mallory")
    await harness.add("root", Role.ADMIN)
    with pytest.raises(NotFound):
        await harness.accounts.keys.revoke(await harness.log_in("mallory"), key.public_id)
    limited = await harness.accounts.authenticate(await harness.create_key("root", "keys"))
    with pytest.raises(NotFound):
        await harness.accounts.keys.revoke(limited, key.public_id)
    assert await harness.accounts.authenticate(secret)
    await harness.accounts.keys.revoke(await harness.log_in("root"), key.public_id)
    with pytest.raises(InvalidToken):
        await harness.accounts.authenticate(secret)


@pytest.mark.parametrize("public_id", ["", "key_x", "1", "' OR 1=1 --", "%", "\x00"])
async def test_revoke_when_key_does_not_exist_then_not_found(
    harness: AccountsHarness, alice: Principal, public_id: str
) -> None:
    await harness.create_key("alice")
    with pytest.raises(NotFound):
        await harness.accounts.keys.revoke(alice, public_id)


async def test_list_when_others_have_keys_then_only_the_own_newest_first(
    harness: AccountsHarness, alice: Principal
) -> None:
    await harness.add("bob")
    await harness.create_key("bob")
    names = ["first", "second", "third"]
    for name in names:
        await harness.accounts.keys.create(alice, name, [], None)
    assert [key.name for key in await harness.accounts.keys.list_own(alice)] == names[::-1]


async def test_stats_when_keys_are_in_every_state_then_counted(
    harness: AccountsHarness, alice: Principal
) -> None:
    used = await harness.create_key("alice")
    await harness.create_key("alice", expires_at=harness.clock() + 10)
    await harness.create_key("alice")
    await harness.accounts.keys.revoke(
        alice, (await harness.accounts.keys.list_own(alice))[0].public_id
    )
    for _ in range(3):
        harness.clock.advance(10)
        await harness.accounts.authenticate(used)
    assert await harness.accounts.keys.stats(alice) == KeyStats(
        total=3, active=1, inactive=0, expired=1, revoked=1, uses=3, last_used_at=harness.clock()
    )
    await harness.accounts.users.set_disabled("alice", True)
    stats = await harness.accounts.keys.stats(alice)
    assert (stats.active, stats.inactive) == (0, 1)


async def test_uses_when_counted_then_shown_at_once_and_stored_at_the_end(
    tmp_path: Path,
) -> None:
    async with open_accounts_harness(tmp_path) as first:
        await first.add("alice")
        secret = await first.create_key("alice")
        for _ in range(5):
            await first.accounts.authenticate(secret)
        shown = await only_key(first, await first.log_in("alice"))
        assert (shown.use_count, shown.last_used_at) == (5, first.clock())
        assert await first.scalar("SELECT use_count FROM api_keys") == 0
    async with open_accounts_harness(tmp_path) as second:
        assert await second.scalar("SELECT use_count FROM api_keys") == 5
        assert await second.scalar("SELECT last_used_at FROM api_keys") == first.clock()


async def test_uses_when_they_can_not_be_stored_then_kept_for_the_next_time(
    harness: AccountsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = harness.accounts.keys._usage  # pyright: ignore[reportPrivateUsage]
    secret = await harness.create_key("alice")
    await harness.accounts.authenticate(secret)

    def full(_: Database) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", full)
        with pytest.raises(Unavailable):
            await usage.flush()
        await harness.accounts.authenticate(secret)
    await usage.flush()
    assert await harness.scalar("SELECT use_count FROM api_keys") == 2


async def test_authenticate_when_key_is_remembered_then_needs_neither_query_nor_write(
    harness: AccountsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await harness.create_key("alice")
    first = await harness.accounts.authenticate(secret)

    def untouched(_: Database) -> None:
        raise AssertionError("the database was asked")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "read", untouched)
        patched.setattr(Database, "write", untouched)
        assert await harness.accounts.authenticate(secret) is first


async def test_maintenance_when_started_and_closed_then_uses_are_stored(tmp_path: Path) -> None:
    async with open_accounts_harness(tmp_path) as harness:
        await harness.add("alice")
        await harness.accounts.start()
        await harness.accounts.authenticate(await harness.create_key("alice"))
        await harness.accounts.close()
        assert await harness.scalar("SELECT use_count FROM api_keys") == 1


async def test_maintenance_when_credentials_have_expired_then_they_are_deleted_and_live_ones_kept(
    harness: AccountsHarness, alice: Principal
) -> None:
    maintenance = harness.accounts.maintenance
    await harness.create_key("alice", expires_at=harness.clock() + DAY_S)
    lasting = await harness.create_key("alice")
    harness.clock.advance(40 * DAY_S)
    await maintenance.delete_expired()
    assert await harness.scalar("SELECT count(*) FROM sessions") == 0
    assert await harness.scalar("SELECT count(*) FROM refresh_tokens") == 0
    assert await harness.scalar("SELECT count(*) FROM api_keys") == 2
    harness.clock.advance(60 * DAY_S)
    await maintenance.delete_expired()
    assert await harness.scalar("SELECT count(*) FROM api_keys") == 1
    assert await harness.accounts.authenticate(lasting)
