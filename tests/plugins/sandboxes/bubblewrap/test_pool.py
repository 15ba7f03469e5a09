"""The pool of idle sandboxes: how many, of which kinds, and for how long."""

import asyncio
import time

import pytest

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.prewarm_setup import PrewarmKind
from plugins.sandboxes.bubblewrap.pool import idle_pool
from plugins.sandboxes.bubblewrap.pool.idle_pool import IdlePool
from tests.support.polling import until

PYTHON, NODE, ANY = PrewarmKind.PYTHON, PrewarmKind.NODE, PrewarmKind.ANY


class _Fake:
    def __init__(self, kind: PrewarmKind) -> None:
        self.kind = kind
        self.created_at = time.monotonic()
        self.is_idle = True
        self.discarded = False

    async def discard(self) -> None:
        self.discarded = True


class _Factory:
    def __init__(self) -> None:
        self.active = 0
        self.created: list[_Fake] = []
        self.failures = {PYTHON: 0, NODE: 0, ANY: 0}

    async def create(self, kind: PrewarmKind) -> _Fake:
        if self.failures[kind]:
            self.failures[kind] -= 1
            raise SandboxUnavailable("not now")
        self.created.append(_Fake(kind))
        return self.created[-1]

    async def open_pool(self, size: int = 1, max_idle: int = 9) -> "IdlePool[_Fake]":
        pool = IdlePool(size, self.create, lambda: self.active, 2)
        pool.start(max_idle)
        await _let_tasks_run()
        return pool


async def _let_tasks_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _counts(pool: "IdlePool[_Fake]") -> dict[PrewarmKind, int]:
    return {kind: pool.count_idle(kind) for kind in PrewarmKind if pool.count_idle(kind)}


async def test_pool_when_the_most_runs_are_active_then_creates_nothing():
    factory = _Factory()
    factory.active = 2
    pool = await factory.open_pool(2)
    assert not factory.created

    factory.active = 0
    pool.notify()
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 2}
    await pool.close()
    assert all(each.discarded for each in factory.created)


@pytest.mark.parametrize(("size", "max_idle"), [(0, 9), (2, 0)])
async def test_pool_when_its_size_is_zero_then_creates_nothing(size: int, max_idle: int):
    factory = _Factory()
    pool = await factory.open_pool(size, max_idle)

    assert pool.take(PYTHON) is None
    assert not factory.created
    await pool.close()


async def test_pool_when_its_size_exceeds_the_most_idle_then_stays_smaller():
    pool = await _Factory().open_pool(2, max_idle=1)

    assert _counts(pool) == {PYTHON: 1}
    await pool.close()


async def test_sandbox_when_put_back_then_taken_again():
    pool = await _Factory().open_pool()
    entry = pool.take(PYTHON)
    assert entry

    pool.put_back(*entry)

    assert pool.take(PYTHON) == entry
    await pool.close()


async def test_take_when_the_sandbox_has_ended_then_none_and_it_is_replaced():
    factory = _Factory()
    pool = await factory.open_pool()
    factory.created[0].is_idle = False

    assert pool.take(PYTHON) is None
    await _let_tasks_run()

    assert factory.created[0].discarded
    assert pool.take(PYTHON) == (PYTHON, factory.created[1])
    await pool.close()
    assert not factory.created[1].discarded


async def test_sandbox_when_too_old_then_replaced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idle_pool, "_MAX_AGE_S", 0.02)
    factory = _Factory()

    pool = await factory.open_pool()
    await until(lambda: len(factory.created) > 1)

    assert factory.created[0].discarded
    await pool.close()


async def test_sandbox_when_put_back_to_a_full_pool_then_discarded():
    factory = _Factory()
    pool = await factory.open_pool()
    entry = pool.take(PYTHON)
    assert entry
    await _let_tasks_run()

    pool.put_back(*entry)
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 1}
    assert sum(each.discarded for each in factory.created) == 1
    await pool.close()


async def test_pool_when_creating_fails_then_retries(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(idle_pool, "_MIN_BACKOFF_S", 0.001)
    factory = _Factory()
    factory.failures[PYTHON] = 2

    pool = await factory.open_pool()
    await until(lambda: bool(_counts(pool)))

    await pool.close()


async def test_kind_when_requested_then_idle_from_then_on():
    pool = await _Factory().open_pool()
    assert _counts(pool) == {PYTHON: 1}

    pool.take(NODE)
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 1, NODE: 1}
    await pool.close()


async def test_kind_when_no_longer_requested_then_discarded(monkeypatch: pytest.MonkeyPatch):
    factory = _Factory()
    pool = await factory.open_pool()
    pool.take(ANY)
    await _let_tasks_run()
    assert ANY in _counts(pool)

    monkeypatch.setattr(idle_pool, "_DEMAND_S", 0.0)
    pool.notify()
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 1}
    assert [each.kind for each in factory.created if each.discarded] == [ANY]
    await pool.close()


async def test_request_when_before_the_start_then_no_demand():
    pool = IdlePool(1, _Factory().create, lambda: 0, 2)
    assert pool.take(NODE) is None

    pool.start(9)
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 1}
    await pool.close()


async def test_take_when_none_of_the_kind_is_idle_then_another_kind_but_not_node():
    pool = await _Factory().open_pool()
    pool.take(NODE)
    pool.take(ANY)
    await _let_tasks_run()
    assert _counts(pool) == {PYTHON: 1, NODE: 1, ANY: 1}

    kinds = [entry and entry[0] for entry in (pool.take(PYTHON) for _ in range(3))]

    assert kinds == [PYTHON, ANY, None]
    await pool.close()


async def test_pool_when_too_small_for_all_kinds_then_shared_among_them():
    pool = await _Factory().open_pool(2, max_idle=3)
    assert _counts(pool) == {PYTHON: 2}

    pool.take(NODE)
    pool.take(ANY)
    await _let_tasks_run()
    for _ in range(2):
        pool.take(PYTHON)
    await _let_tasks_run()

    assert sum(_counts(pool).values()) == 3
    await pool.close()


async def test_kind_when_it_can_not_be_created_then_others_still_are():
    factory = _Factory()
    factory.failures[NODE] = 1_000_000
    pool = await factory.open_pool()
    pool.take(NODE)
    pool.take(PYTHON)
    await _let_tasks_run()

    assert _counts(pool) == {PYTHON: 1}
    assert factory.failures[NODE] == 1_000_000 - 1
    await pool.close()
