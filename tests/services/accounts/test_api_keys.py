"""API keys: what they may do, how long, and that revoking them works at once."""

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
from tests.support.accounts import Accounts, accounts_in

DAY_S = 86400.0


@pytest.fixture
async def box(tmp_path: Path) -> AsyncGenerator[Accounts, None]:
    async with accounts_in(tmp_path) as accounts:
        await accounts.add("alice")
        yield accounts


@pytest.fixture
async def alice(box: Accounts) -> Principal:
    return await box.logged_in("alice")


async def only_key(box: Accounts, principal: Principal) -> ApiKey:
    [key] = await box.service.list_keys(principal)
    return key


async def test_create_when_asked_then_key_works_and_only_its_hash_is_kept(
    box: Accounts, alice: Principal
) -> None:
    key, secret = await box.service.create_key(alice, " CI ", ["tasks:read"], None)
    assert (key.name, key.scopes, key.status) == ("CI", ("tasks:read",), KeyStatus.ACTIVE)
    assert secret.startswith(key.prefix)
    principal = await box.service.authenticate(secret)
    assert (principal.user, principal.key_id) == (alice.user, key.id)
    assert principal.may(Scope.TASKS_READ)
    assert not principal.may(Scope.TASKS_WRITE)
    assert await box.scalar("SELECT key_hash FROM api_keys") == tokens.key_hash(secret)
    dump = await box.scalar("SELECT group_concat(name || prefix || key_hash) FROM api_keys")
    assert secret not in str(dump)


async def test_create_when_no_scope_is_asked_for_then_the_makers_own(
    box: Accounts, alice: Principal
) -> None:
    everything, _ = await box.service.create_key(alice, "all", [], None)
    assert everything.scopes == ("*",)
    reader = await box.service.authenticate(await box.key_of("alice", "keys", "tasks:read"))
    same, _ = await box.service.create_key(reader, "same", [], None)
    assert same.scopes == ("keys", "tasks:read")


@pytest.mark.parametrize("scope", ["*", "tasks:write"])
async def test_create_when_scope_is_beyond_the_makers_then_forbidden(
    box: Accounts, scope: str
) -> None:
    maker = await box.service.authenticate(await box.key_of("alice", "keys", "tasks:read"))
    with pytest.raises(Forbidden) as refused:
        await box.service.create_key(maker, "more", ["tasks:read", scope], None)
    assert refused.value.details == {"scope": scope}


async def test_create_when_key_lacks_the_scope_for_keys_then_forbidden(box: Accounts) -> None:
    principal = await box.service.authenticate(await box.key_of("alice", "tasks:read"))
    with pytest.raises(Forbidden, match="keys"):
        await box.service.create_key(principal, "another", [], None)
    with pytest.raises(Forbidden, match="keys"):
        await box.service.list_keys(principal)
    with pytest.raises(Forbidden, match="keys"):
        await box.service.revoke_key(principal, "key_x")


async def test_create_when_maker_is_a_viewer_then_no_right_to_write(box: Accounts) -> None:
    await box.add("vera", Role.VIEWER)
    vera = await box.logged_in("vera")
    with pytest.raises(Forbidden):
        await box.service.create_key(vera, "x", ["tasks:write"], None)
    with pytest.raises(Forbidden):
        await box.service.create_key(vera, "x", ["*"], None)
    _, secret = await box.service.create_key(vera, "x", [], None)
    assert not (await box.service.authenticate(secret)).may(Scope.TASKS_WRITE)


@pytest.mark.parametrize("scope", ["admin", "", "TASKS:READ", "tasks:read ", "x" * 10**6])
async def test_create_when_scope_is_unknown_then_invalid(
    box: Accounts, alice: Principal, scope: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await box.service.create_key(alice, "x", [scope], None)
    assert refused.value.details["field"] == "scopes"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "\ud800", "x" * 101, "a\u202eb"])
async def test_create_when_name_is_bad_then_invalid(
    box: Accounts, alice: Principal, name: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await box.service.create_key(alice, name, [], None)
    assert refused.value.details["field"] == "name"


@pytest.mark.parametrize("ahead_s", [0.0, -1.0, -math.inf, math.inf, math.nan, 1e18])
async def test_create_when_expiry_is_not_ahead_then_invalid(
    box: Accounts, alice: Principal, ahead_s: float
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await box.service.create_key(alice, "x", [], box.clock() + ahead_s)
    assert refused.value.details["field"] == "expires_at"


async def test_create_when_made_with_a_key_then_can_not_outlive_it(box: Accounts) -> None:
    end = box.clock() + DAY_S
    maker = await box.service.authenticate(await box.key_of("alice", expires_at=end))
    inherited, _ = await box.service.create_key(maker, "child", [], None)
    assert inherited.expires_at == end
    with pytest.raises(InvalidInput, match="later"):
        await box.service.create_key(maker, "child", [], end + 1)


async def test_create_when_the_making_key_was_just_revoked_then_refused(
    box: Accounts, alice: Principal
) -> None:
    maker = await box.service.authenticate(await box.key_of("alice"))
    await box.service.revoke_key(alice, (await only_key(box, alice)).public_id)
    with pytest.raises(InvalidToken):
        await box.service.create_key(maker, "child", [], None)


async def test_create_when_a_user_has_too_many_then_conflict_until_one_is_revoked(
    box: Accounts, alice: Principal
) -> None:
    keys = [await box.service.create_key(alice, f"{n}", [], None) for n in range(100)]
    with pytest.raises(Conflict) as refused:
        await box.service.create_key(alice, "one more", [], None)
    assert refused.value.details == {"limit": 100}
    await box.service.revoke_key(alice, keys[0][0].public_id)
    both = [box.service.create_key(alice, "race", [], None) for _ in range(2)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1


async def test_key_when_revoked_while_remembered_then_refused_at_once(
    box: Accounts, alice: Principal
) -> None:
    secret = await box.key_of("alice")
    await box.service.authenticate(secret)
    revoked = await box.service.revoke_key(alice, (await only_key(box, alice)).public_id)
    assert revoked.status is KeyStatus.REVOKED
    with pytest.raises(InvalidToken, match="revoked"):
        await box.service.authenticate(secret)
    again = await box.service.revoke_key(alice, revoked.public_id)
    assert again.status is KeyStatus.REVOKED


async def test_key_when_its_maker_is_revoked_then_revoked_with_it(
    box: Accounts, alice: Principal
) -> None:
    parent_secret = await box.key_of("alice")
    parent = await only_key(box, alice)
    child = await box.service.create_key(
        await box.service.authenticate(parent_secret), "child", [], None
    )
    grandchild = await box.service.create_key(
        await box.service.authenticate(child[1]), "grandchild", [], None
    )
    unrelated = await box.key_of("alice")
    await box.service.authenticate(grandchild[1])
    await box.service.revoke_key(alice, parent.public_id)
    for secret in (parent_secret, child[1], grandchild[1]):
        with pytest.raises(InvalidToken, match="revoked"):
            await box.service.authenticate(secret)
    assert await box.service.authenticate(unrelated)


async def test_key_when_it_expires_while_remembered_then_expired(box: Accounts) -> None:
    secret = await box.key_of("alice", expires_at=box.clock() + 10)
    assert await box.service.authenticate(secret)
    box.clock.advance(10)
    with pytest.raises(TokenExpired):
        await box.service.authenticate(secret)


@pytest.mark.parametrize(
    "secret",
    ["mk-", "mk-YOUR_API_KEY", "mk-' OR '1'='1", "mk-" + "a" * 43, "mk-\ud800", "mk-" + "é" * 43],
)
async def test_key_when_made_up_then_invalid(box: Accounts, secret: str) -> None:
    with pytest.raises(InvalidToken):
        await box.service.authenticate(secret)


async def test_key_when_its_stored_hash_is_presented_then_invalid(box: Accounts) -> None:
    await box.key_of("alice")
    stored = str(await box.scalar("SELECT key_hash FROM api_keys"))
    for guess in (stored, f"mk-{stored}", f"mk-{stored[:43]}"):
        with pytest.raises(InvalidToken):
            await box.service.authenticate(guess)


async def test_revoke_when_key_is_another_users_then_not_found_but_not_for_an_administrator(
    box: Accounts, alice: Principal
) -> None:
    secret = await box.key_of("alice")
    key = await only_key(box, alice)
    await box.add("mallory")
    await box.add("root", Role.ADMIN)
    with pytest.raises(NotFound):
        await box.service.revoke_key(await box.logged_in("mallory"), key.public_id)
    limited = await box.service.authenticate(await box.key_of("root", "keys"))
    with pytest.raises(NotFound):
        await box.service.revoke_key(limited, key.public_id)
    assert await box.service.authenticate(secret)
    await box.service.revoke_key(await box.logged_in("root"), key.public_id)
    with pytest.raises(InvalidToken):
        await box.service.authenticate(secret)


@pytest.mark.parametrize("public_id", ["", "key_x", "1", "' OR 1=1 --", "%", "\x00"])
async def test_revoke_when_key_does_not_exist_then_not_found(
    box: Accounts, alice: Principal, public_id: str
) -> None:
    await box.key_of("alice")
    with pytest.raises(NotFound):
        await box.service.revoke_key(alice, public_id)


async def test_list_when_others_have_keys_then_only_the_own_newest_first(
    box: Accounts, alice: Principal
) -> None:
    await box.add("bob")
    await box.key_of("bob")
    names = ["first", "second", "third"]
    for name in names:
        await box.service.create_key(alice, name, [], None)
    assert [key.name for key in await box.service.list_keys(alice)] == names[::-1]


async def test_stats_when_keys_are_in_every_state_then_counted(
    box: Accounts, alice: Principal
) -> None:
    used = await box.key_of("alice")
    await box.key_of("alice", expires_at=box.clock() + 10)
    await box.key_of("alice")
    await box.service.revoke_key(alice, (await box.service.list_keys(alice))[0].public_id)
    for _ in range(3):
        box.clock.advance(10)
        await box.service.authenticate(used)
    assert await box.service.key_stats(alice) == KeyStats(
        total=3, active=1, inactive=0, expired=1, revoked=1, uses=3, last_used_at=box.clock()
    )
    await box.service.set_disabled("alice", True)
    stats = await box.service.key_stats(alice)
    assert (stats.active, stats.inactive) == (0, 1)


async def test_uses_when_counted_then_shown_at_once_and_stored_at_the_end(
    tmp_path: Path,
) -> None:
    async with accounts_in(tmp_path) as first:
        await first.add("alice")
        secret = await first.key_of("alice")
        for _ in range(5):
            await first.service.authenticate(secret)
        shown = await only_key(first, await first.logged_in("alice"))
        assert (shown.use_count, shown.last_used_at) == (5, first.clock())
        assert await first.scalar("SELECT use_count FROM api_keys") == 0
    async with accounts_in(tmp_path) as second:
        assert await second.scalar("SELECT use_count FROM api_keys") == 5
        assert await second.scalar("SELECT last_used_at FROM api_keys") == first.clock()


async def test_uses_when_they_can_not_be_stored_then_kept_for_the_next_time(
    box: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = box.service.keys._usage  # pyright: ignore[reportPrivateUsage]
    secret = await box.key_of("alice")
    await box.service.authenticate(secret)

    def full(_: Database) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", full)
        with pytest.raises(Unavailable):
            await usage.flush()
        await box.service.authenticate(secret)
    await usage.flush()
    assert await box.scalar("SELECT use_count FROM api_keys") == 2


async def test_authenticate_when_key_is_remembered_then_needs_neither_query_nor_write(
    box: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await box.key_of("alice")
    first = await box.service.authenticate(secret)

    def untouched(_: Database) -> None:
        raise AssertionError("the database was asked")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "read", untouched)
        patched.setattr(Database, "write", untouched)
        assert await box.service.authenticate(secret) is first


async def test_upkeep_when_started_and_closed_then_uses_are_stored(tmp_path: Path) -> None:
    async with accounts_in(tmp_path) as box:
        await box.add("alice")
        await box.service.start()
        await box.service.authenticate(await box.key_of("alice"))
        await box.service.close()
        assert await box.scalar("SELECT use_count FROM api_keys") == 1


async def test_upkeep_when_it_cleans_then_forgets_what_ended_and_keeps_what_lives(
    box: Accounts, alice: Principal
) -> None:
    upkeep = box.service._upkeep  # pyright: ignore[reportPrivateUsage]
    await box.key_of("alice", expires_at=box.clock() + DAY_S)
    lasting = await box.key_of("alice")
    box.clock.advance(40 * DAY_S)
    await upkeep.clean()
    assert await box.scalar("SELECT count(*) FROM sessions") == 0
    assert await box.scalar("SELECT count(*) FROM refresh_tokens") == 0
    assert await box.scalar("SELECT count(*) FROM api_keys") == 2
    box.clock.advance(60 * DAY_S)
    await upkeep.clean()
    assert await box.scalar("SELECT count(*) FROM api_keys") == 1
    assert await box.service.authenticate(lasting)
