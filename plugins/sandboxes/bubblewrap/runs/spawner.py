"""Has sandboxes started by the launcher, and the launcher started again if it ends."""

import asyncio
import functools
import itertools
import os
import time
from pathlib import Path

from msgspec import Struct

from appliance.domain.execution import Limits
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from plugins._shared.stage.unavailable import unavailable
from plugins._shared.user_ids import Identities, identities
from plugins.sandboxes.bubblewrap.bwrap import argv, layout
from plugins.sandboxes.bubblewrap.bwrap.layout import Places, Sources
from plugins.sandboxes.bubblewrap.launcher.limits_codec import Bounds
from plugins.sandboxes.bubblewrap.launcher.mounts import SLOTS
from plugins.sandboxes.bubblewrap.launcher.wire import number, unpack
from plugins.sandboxes.bubblewrap.runs.launcher_client import Link, Order
from plugins.sandboxes.bubblewrap.runs.launcher_facts import Walls, walls
from plugins.sandboxes.bubblewrap.runs.launcher_handle import Launched
from plugins.sandboxes.bubblewrap.runs.slots import Room

_LAUNCHER = "plugins.sandboxes.bubblewrap.launcher.main"
_WRITTEN_BY_US = ("job", "stdin")
_READ_BY_US = ("report", "stdout", "stderr", "log")
# As the launcher hands them on: five to the stage, and where bwrap itself speaks.
_THEIRS = ("job", "report", "stdin", "stdout", "stderr", "log")
_SET_UP_S = 30.0
# Between two starts of a launcher that does not last, doubled each time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_LASTING_S = 60.0


class Child(Struct, frozen=True):
    """A sandbox that waits for its job.

    `fds` are our ends of its pipes by name, non-blocking: job and stdin to write;
    report, stdout, stderr and log (what bwrap itself says) to read.
    """

    process: Launched
    link: Link
    fds: dict[str, int]


class Spawner:
    """Owns the launcher. `users` are those that runs may have."""

    def __init__(self, context: PluginContext) -> None:
        self.users = Identities(None)
        self._context = context
        self._wanted: list[bytes] = []
        self._link: Link | None = None
        self._sources = Sources(None)
        self._places: Places | None = None
        self._walls: Walls | None = None
        self._room = Room(SLOTS)
        self._starting = asyncio.Lock()
        self._numbers = itertools.count()
        self._failures = 0
        self._started_at = 0.0
        self._stopped = False

    @property
    def fence(self) -> Walls:
        """What the kernel limits for a run as a whole. Only after `start`."""
        if self._walls is None:
            raise SandboxUnavailable("the sandbox was not started")
        return self._walls

    @property
    def parallel(self) -> int:
        """How many sandboxes there may be at once; `spawn` waits while there are as many."""
        return self._room.size

    @property
    def launcher_pid(self) -> int | None:
        """The process that the launcher was started as; None while there is none."""
        return self._link.pid if self._link else None

    async def start(self, sources: Sources, runtime_dir: Path) -> None:
        """Lay out what the runs need. Raises SandboxUnavailable."""
        self.users = identities()
        self._sources = sources
        wanted = await asyncio.to_thread(layout.wanted, sources, runtime_dir)
        self._wanted = wanted.words()
        async with self._starting:
            await self._start_launcher()

    async def spawn(self, limits: Limits, uid: int | None) -> Child:
        """Start a sandbox that waits for its job. Raises SandboxUnavailable.

        Waits while there are as many as may be, or while another one has this user.
        """
        slot = await self._room.enter(uid)
        try:
            link, laid_out = await self._running()
            order = _order(laid_out, slot, uid, _bounds(limits))
        except BaseException:
            self._room.leave(slot)
            raise
        return await self._spawn(link, order)

    async def adapt(self, child: Child, limits: Limits) -> bool:
        """Give a waiting sandbox other limits; False if it must have those that it has."""
        try:
            return not await child.link.adapt(child.process, _bounds(limits))
        except TimeoutError:
            child.link.break_off()
            return False

    async def stop(self) -> None:
        """End the launcher, and with it every sandbox that may still be alive."""
        self._stopped = True
        async with self._starting:
            if self._link is not None:
                await self._link.close()
                self._link = None

    async def _spawn(self, link: Link, order: Order) -> Child:
        at_end = functools.partial(self._room.leave, order.slot)
        sandbox = Launched(number(next(self._numbers)), at_end)
        ours: dict[str, int] = {}
        theirs: dict[str, int] = {}
        try:
            _make_pipes(ours, theirs)
        except OSError as error:
            _close(ours)
            _close(theirs)
            at_end()
            raise unavailable(
                f"no pipes for a sandbox ({error.strerror})",
                "raise the service's limit on open files",
            ) from error
        link.spawn(sandbox, order, [theirs[name] for name in _THEIRS])
        try:
            async with asyncio.timeout(_SET_UP_S):
                await asyncio.shield(sandbox.made)
        except TimeoutError:
            _close(ours)
            link.break_off()
            raise SandboxUnavailable(f"a sandbox was not set up within {_SET_UP_S:.0f} s") from None
        except BaseException:
            _close(ours)
            link.kill(sandbox, hard=False)
            raise
        return Child(sandbox, link, ours)

    async def _running(self) -> tuple[Link, Places]:
        async with self._starting:
            if self._stopped or self._places is None or self._link is None:
                raise SandboxUnavailable("the sandbox was not started, or is shut down")
            if not self._link.alive:
                await self._link.lost.wait()
                await self._pause()
                await self._start_launcher()
            return self._link, self._places

    async def _pause(self) -> None:
        """A launcher that ends again and again is started less and less often."""
        lasted = time.monotonic() - self._started_at
        self._failures = 0 if lasted > _LASTING_S else self._failures + 1
        pause = min(_FIRST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S)
        await asyncio.sleep(max(0.0, pause - lasted))

    async def _start_launcher(self) -> None:
        self._started_at = time.monotonic()
        try:
            link = Link(self._context.child_argv(_LAUNCHER), self._context.child_env())
        except OSError as error:
            raise unavailable(
                f"the process that runs the sandboxes can't be started ({error.strerror})",
                "see that the limits on processes and open files leave room",
            ) from error
        try:
            nest, *facts = await link.begin(self._wanted)
            base, *folders = map(os.fsdecode, unpack(nest))
            self._walls = walls(*facts)
        except BaseException:
            await link.close()
            raise
        mounts = not self._walls.lack
        self._places = layout.found(self._sources, Path(base), folders, mounts=mounts)
        self._room.resize(self._most())
        self._link = link

    def _most(self) -> int:
        return min(SLOTS, self.users.count) if self.fence.counts_memory else 1


def _order(laid_out: Places, slot: int, uid: int | None, bounds: Bounds) -> Order:
    try:
        return Order(slot, uid, bounds, argv.words(laid_out, slot, bounds))
    except OSError as error:
        raise unavailable(
            f"a folder that runs are to see can't be read ({error.filename}: {error.strerror})",
            "see that the root file system was not removed, and start the box anew",
        ) from error


def _bounds(limits: Limits) -> Bounds:
    return Bounds(
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        cpus=limits.cpus,
        workspace_bytes=limits.workspace_bytes,
        workspace_files=limits.workspace_files,
        tmp_bytes=limits.tmp_bytes,
    )


def _make_pipes(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for name in _WRITTEN_BY_US:
        theirs[name], ours[name] = os.pipe()
    for name in _READ_BY_US:
        ours[name], theirs[name] = os.pipe()
    for fd in ours.values():
        os.set_blocking(fd, False)


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
