"""The end of a backend and of what waits in it: at any moment, and where its launcher is stuck."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from plugins.sandboxes.bubblewrap import backend
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.runs import launcher_client, spawner
from tests.support.sandbox import run_python, seen_on_the_host
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

DEADLINE_S = 60.0
# Shorter than a sandbox that does not end is waited for.
SOON_S = 20.0

Make = Callable[[int], Awaitable["Opened"]]


class Opened(Bubblewrap):
    """Shows what it starts its sandboxes with."""

    @property
    def launcher_pid(self) -> int:
        pid = self._spawner.launcher_pid
        assert pid is not None
        return pid


@pytest_asyncio.fixture
async def make(sandbox_python: Path) -> AsyncIterator[Make]:
    """Gives a backend that works and begins to fill its pool of so many."""
    made: list[Opened] = []

    async def make_one(warm: int) -> Opened:
        context = plugin_context(sandbox_python, Path(folder))
        settings = {"warm": warm, "parallel_runs": 4}
        made.append(box := Opened(structs.replace(context, settings=settings)))
        status = await box.probe()
        if not status.available:
            pytest.skip(f"this machine can't confine: {status.problem}")
        return box

    with tempfile.TemporaryDirectory() as folder:
        yield make_one
        for box in made:
            await box.close()


def children_of(pid: int) -> list[int]:
    folders = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for folder in folders for word in (folder / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wait_s", [0.0, 0.005, 0.02, 0.06, 0.15])
async def test_close_while_the_pool_fills_then_it_returns_and_nothing_is_left(
    wait_s: float, make: Make
) -> None:
    box = await make(3)
    launcher = box.launcher_pid
    await asyncio.sleep(wait_s)

    async with asyncio.timeout(SOON_S):
        await box.close()

    assert not alive(launcher)


@pytest.mark.parametrize("waiting", [0, 1])
async def test_close_while_the_launcher_is_stuck_then_what_waits_ends_with_it(
    waiting: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_CLOSE_S", 0.2)
    monkeypatch.setattr(launcher_client, "_END_S", 0.5)
    box = await make(2)
    await until(lambda: box.waiting() >= waiting)
    (inner,) = children_of(box.launcher_pid)
    sandboxes = children_of(inner)
    os.kill(inner, signal.SIGSTOP)

    async with asyncio.timeout(SOON_S):
        await box.close()

    assert not [pid for pid in (inner, *sandboxes) if alive(pid)]


async def test_run_when_cancelled_while_it_waits_for_room_then_it_is_over_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawner, "SLOTS", 1)
    box = await make(0)
    mark = f"room-{os.getpid()}"
    first = asyncio.create_task(run_python(box, f"import time; time.sleep(600)  # {mark}"))
    await until(lambda: bool(seen_on_the_host(mark)))
    second = asyncio.create_task(run_python(box, "print(1)"))
    await asyncio.sleep(0.05)

    second.cancel()
    async with asyncio.timeout(SOON_S):
        await asyncio.wait({second})

    assert second.cancelled()
    assert not first.done()
    first.cancel()
    await asyncio.wait({first})
    assert (await run_python(box, "print(2)")).stdout == b"2\n"
