"""The pool of sandboxes that wait: how many, of which kinds, and for how long."""

import asyncio
import time
from collections.abc import Callable

import pytest

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.prewarm_setup import Readiness
from plugins.sandboxes.bubblewrap.pool import pool
from plugins.sandboxes.bubblewrap.pool.pool import Pool

PYTHON, NODE, ANY = Readiness.PYTHON, Readiness.NODE, Readiness.ANY


class _Fake:
    def __init__(self, kind: Readiness) -> None:
        self.kind = kind
        self.born = time.monotonic()
        self.waits = True
        self.ended = False

    async def end(self) -> None:
        self.ended = True


class _Factory:
    def __init__(self) -> None:
        self.active = 0
        self.made: list[_Fake] = []
        self.failures = {PYTHON: 0, NODE: 0, ANY: 0}

    async def make(self, kind: Readiness) -> _Fake:
        if self.failures[kind]:
            self.failures[kind] -= 1
            raise SandboxUnavailable("not now")
        self.made.append(_Fake(kind))
        return self.made[-1]

    async def filled(self, size: int = 1, at_most: int = 9) -> "Pool[_Fake]":
        made = Pool(size, self.make, lambda: self.active, 2)
        made.start(at_most)
        await _turns()
        return made


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def _counts(filled: "Pool[_Fake]") -> dict[Readiness, int]:
    return {kind: filled.waiting(kind) for kind in Readiness if filled.waiting(kind)}


async def test_pool_while_as_many_runs_go_on_as_may_makes_nothing():
    factory = _Factory()
    factory.active = 2
    filled = await factory.filled(2)
    assert not factory.made

    factory.active = 0
    filled.moved()
    await _turns()

    assert _counts(filled) == {PYTHON: 2}
    await filled.close()
    assert all(each.ended for each in factory.made)


@pytest.mark.parametrize(("size", "at_most"), [(0, 9), (2, 0)])
async def test_pool_without_room_never_makes_one(size: int, at_most: int):
    factory = _Factory()
    filled = await factory.filled(size, at_most)

    assert filled.take(PYTHON) is None
    assert not factory.made
    await filled.close()


async def test_pool_of_more_than_may_be_stays_smaller():
    filled = await _Factory().filled(2, at_most=1)

    assert _counts(filled) == {PYTHON: 1}
    await filled.close()


async def test_sandbox_put_back_is_given_again():
    filled = await _Factory().filled()
    taken = filled.take(PYTHON)
    assert taken

    filled.put_back(*taken)

    assert filled.take(PYTHON) == taken
    await filled.close()


async def test_pool_gives_none_that_is_dead_and_replaces_it():
    factory = _Factory()
    filled = await factory.filled()
    factory.made[0].waits = False

    assert filled.take(PYTHON) is None
    await _turns()

    assert factory.made[0].ended
    assert filled.take(PYTHON) == (PYTHON, factory.made[1])
    await filled.close()
    assert not factory.made[1].ended


async def test_pool_replaces_those_that_waited_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_MOST_AGE_S", 0.02)
    factory = _Factory()

    filled = await factory.filled()
    await _until(lambda: len(factory.made) > 1)

    assert factory.made[0].ended
    await filled.close()


async def test_pool_with_more_put_back_than_it_holds_ends_those():
    factory = _Factory()
    filled = await factory.filled()
    taken = filled.take(PYTHON)
    assert taken
    await _turns()

    filled.put_back(*taken)
    await _turns()

    assert _counts(filled) == {PYTHON: 1}
    assert sum(each.ended for each in factory.made) == 1
    await filled.close()


async def test_pool_that_can_make_none_tries_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_FIRST_PAUSE_S", 0.001)
    factory = _Factory()
    factory.failures[PYTHON] = 2

    filled = await factory.filled()
    await _until(lambda: bool(_counts(filled)))

    await filled.close()


async def test_kind_that_was_asked_for_waits_from_then_on():
    filled = await _Factory().filled()
    assert _counts(filled) == {PYTHON: 1}

    filled.take(NODE)
    await _turns()

    assert _counts(filled) == {PYTHON: 1, NODE: 1}
    await filled.close()


async def test_kind_that_is_no_longer_asked_for_goes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "_REMEMBERED_S", 0.02)
    factory = _Factory()
    filled = await factory.filled()
    filled.take(ANY)
    await _turns()
    assert ANY in _counts(filled)

    await asyncio.sleep(0.02)
    filled.moved()
    await _turns()

    assert _counts(filled) == {PYTHON: 1}
    assert [each.kind for each in factory.made if each.ended] == [ANY]
    await filled.close()


async def test_asking_before_the_start_is_forgotten():
    made = Pool(1, _Factory().make, lambda: 0, 2)
    assert made.take(NODE) is None

    made.start(9)
    await _turns()

    assert _counts(made) == {PYTHON: 1}
    await made.close()


async def test_program_without_one_of_its_kind_gets_another_but_no_node():
    filled = await _Factory().filled()
    filled.take(NODE)
    filled.take(ANY)
    await _turns()
    assert _counts(filled) == {PYTHON: 1, NODE: 1, ANY: 1}

    kinds = [taken and taken[0] for taken in (filled.take(PYTHON) for _ in range(3))]

    assert kinds == [PYTHON, ANY, None]
    await filled.close()


async def test_little_room_is_shared_among_the_kinds():
    filled = await _Factory().filled(2, at_most=3)
    assert _counts(filled) == {PYTHON: 2}

    filled.take(NODE)
    filled.take(ANY)
    await _turns()
    for _ in range(2):
        filled.take(PYTHON)
    await _turns()

    assert sum(_counts(filled).values()) == 3
    await filled.close()


async def test_kind_that_can_not_be_made_keeps_no_other_from_waiting():
    factory = _Factory()
    factory.failures[NODE] = 1_000_000
    filled = await factory.filled()
    filled.take(NODE)
    filled.take(PYTHON)
    await _turns()

    assert _counts(filled) == {PYTHON: 1}
    assert factory.failures[NODE] == 1_000_000 - 1
    await filled.close()
