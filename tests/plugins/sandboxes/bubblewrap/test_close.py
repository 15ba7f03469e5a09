"""Closing a backend with idle sandboxes: at any moment, and while its launcher is stopped."""

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
from plugins.sandboxes.bubblewrap.runs.slots import SlotAllocator
from tests.support.polling import until
from tests.support.sandbox import find_host_processes, run_python
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

# Less than the time that the product waits for a sandbox that does not end.
SOON_S = 20.0

Make = Callable[[int], Awaitable["Opened"]]


class Opened(Bubblewrap):
    """Gives access to the launcher."""

    @property
    def launcher_pid(self) -> int:
        pid = self._spawner.launcher_pid
        assert pid is not None
        return pid


@pytest_asyncio.fixture
async def make(sandbox_python: Path) -> AsyncIterator[Make]:
    """Opens a backend whose pool starts to fill with `warm` sandboxes."""
    backends: list[Opened] = []

    async def make_one(warm: int) -> Opened:
        context = plugin_context(sandbox_python, Path(folder))
        settings = {"warm": warm, "parallel_runs": 4}
        backends.append(opened := Opened(structs.replace(context, settings=settings)))
        status = await opened.probe()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}")
        return opened

    with tempfile.TemporaryDirectory() as folder:
        yield make_one
        for each in backends:
            await each.close()


def children_of(pid: int) -> list[int]:
    folders = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for folder in folders for word in (folder / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except OSError:
        return False


@pytest.mark.parametrize("wait_s", [0.0, 0.005, 0.02, 0.06, 0.15])
async def test_close_when_the_pool_is_filling_then_it_returns_and_nothing_is_left(
    wait_s: float, make: Make
) -> None:
    opened = await make(3)
    launcher = opened.launcher_pid
    await asyncio.sleep(wait_s)  # any moment of the filling will do

    async with asyncio.timeout(SOON_S):
        await opened.close()

    assert not alive(launcher)


@pytest.mark.parametrize("waiting", [0, 1])
async def test_close_when_the_launcher_is_stopped_then_idle_sandboxes_end_with_it(
    waiting: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_CLOSE_S", 0.2)
    monkeypatch.setattr(launcher_client, "_END_S", 0.5)
    opened = await make(2)
    await until(lambda: opened.count_idle() >= waiting)
    (inner,) = children_of(opened.launcher_pid)
    sandboxes = children_of(inner)
    os.kill(inner, signal.SIGSTOP)

    async with asyncio.timeout(SOON_S):
        await opened.close()

    assert not [pid for pid in (inner, *sandboxes) if alive(pid)]


async def test_run_when_cancelled_while_it_waits_for_a_slot_then_it_ends_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, acquiring = SlotAllocator.acquire, list[int | None]()

    async def record(slots: SlotAllocator, uid: int | None) -> int:
        acquiring.append(uid)
        return await acquire(slots, uid)

    monkeypatch.setattr(spawner, "MAX_SLOTS", 1)
    opened = await make(0)
    mark = f"slot-{os.getpid()}"
    first = asyncio.create_task(run_python(opened, f"import time; time.sleep(600)  # {mark}"))
    await until(lambda: bool(find_host_processes(mark)))
    monkeypatch.setattr(SlotAllocator, "acquire", record)
    second = asyncio.create_task(run_python(opened, "print(1)"))
    await until(lambda: acquiring)

    second.cancel()
    async with asyncio.timeout(SOON_S):
        await asyncio.wait({second})

    assert second.cancelled()
    assert not first.done()
    first.cancel()
    await asyncio.wait({first})
    assert (await run_python(opened, "print(2)")).stdout == b"2\n"
