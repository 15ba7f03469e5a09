"""Starts sandboxes through the launcher, and restarts the launcher if it ends."""

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
from plugins._shared.user_ids import UserIdAllocator, create_allocator
from plugins.sandboxes.bubblewrap.bwrap import argv, layout
from plugins.sandboxes.bubblewrap.bwrap.layout import SandboxPaths, Sources
from plugins.sandboxes.bubblewrap.launcher.mounts import MAX_SLOTS
from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits, SpawnRequest
from plugins.sandboxes.bubblewrap.launcher.wire import encode_int, unpack
from plugins.sandboxes.bubblewrap.runs.launcher_capabilities import (
    LauncherCapabilities,
    decode_capabilities,
)
from plugins.sandboxes.bubblewrap.runs.launcher_client import LauncherClient
from plugins.sandboxes.bubblewrap.runs.sandbox_handle import SandboxHandle
from plugins.sandboxes.bubblewrap.runs.slots import SlotAllocator

_LAUNCHER = "plugins.sandboxes.bubblewrap.launcher.main"
_PROGRAM_STREAMS = ("stdin", "stdout", "stderr")
_PIPE_MODE = 0o666
_INPUTS = ("job", "stdin")
_OUTPUTS = ("report", "stdout", "stderr", "log")
# In the order of sandbox_process.STREAM_FDS and LOG_FD: five for the stage, one for bwrap itself.
_LAUNCHER_FDS = ("job", "report", "stdin", "stdout", "stderr", "log")
_SETUP_S = 30.0
# Delay before a restart of the launcher, doubled each time it ran for less than _STABLE_S.
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0
_STABLE_S = 60.0


class SandboxPipes(Struct, frozen=True):
    """A sandbox that waits for its job.

    `fds` are the service's ends of its pipes by name, non-blocking: job and stdin to write;
    report, stdout, stderr and log (bwrap's own messages) to read.
    """

    handle: SandboxHandle
    client: LauncherClient
    fds: dict[str, int]


class Spawner:
    """Owns the launcher. `user_ids` allocates the user ids of runs."""

    def __init__(self, context: PluginContext) -> None:
        self.user_ids = UserIdAllocator(None)
        self._context = context
        self._layout_request: list[bytes] = []
        self._client: LauncherClient | None = None
        self._sources = Sources(None)
        self._paths: SandboxPaths | None = None
        self._capabilities: LauncherCapabilities | None = None
        self._slots = SlotAllocator(MAX_SLOTS)
        self._start_lock = asyncio.Lock()
        self._numbers = itertools.count()
        self._failures = 0
        self._started_at = 0.0
        self._stopped = False

    @property
    def capabilities(self) -> LauncherCapabilities:
        """What the launcher can enforce. Raises SandboxUnavailable before `start`."""
        if self._capabilities is None:
            raise SandboxUnavailable("the sandbox launcher was not started")
        return self._capabilities

    @property
    def max_parallel(self) -> int:
        """The most sandboxes at a time; `spawn` waits while there are as many."""
        return self._slots.size

    @property
    def launcher_pid(self) -> int | None:
        """The launcher's outer process; None if there is none."""
        return self._client.pid if self._client else None

    async def start(self, sources: Sources, runtime_dir: Path) -> None:
        """Start the launcher and lay out what the runs need. Raises SandboxUnavailable."""
        self.user_ids = create_allocator()
        self._sources = sources
        request = await asyncio.to_thread(layout.build_layout_request, sources, runtime_dir)
        self._layout_request = request.encode()
        async with self._start_lock:
            await self._start_launcher()

    async def spawn(self, limits: Limits, uid: int | None, base: str = "") -> SandboxPipes:
        """Start a sandbox that waits for its job, above this base. Raises SandboxUnavailable.

        Waits while all slots are in use, or another sandbox has this user id.
        """
        slot = await self._slots.acquire(uid)
        try:
            client, paths = await self._ensure_running()
            request = _build_spawn_request(paths, slot, uid, _kernel_limits(limits), base)
        except BaseException:
            self._slots.release(slot)
            raise
        return await self._spawn(client, request)

    async def set_limits(self, pipes: SandboxPipes, limits: Limits) -> bool:
        """Change the limits of a waiting sandbox; False if it keeps the old ones."""
        try:
            return not await pipes.client.set_limits(pipes.handle, _kernel_limits(limits))
        except TimeoutError:
            pipes.client.kill_launcher()
            return False

    async def stop(self) -> None:
        """End the launcher, and with it every remaining sandbox."""
        self._stopped = True
        async with self._start_lock:
            if self._client is not None:
                await self._client.close()
                self._client = None

    async def _spawn(self, client: LauncherClient, request: SpawnRequest) -> SandboxPipes:
        release_slot = functools.partial(self._slots.release, request.slot)
        sandbox = SandboxHandle(encode_int(next(self._numbers)), release_slot)
        ours: dict[str, int] = {}
        theirs: dict[str, int] = {}
        try:
            _make_pipes(ours, theirs)
            if request.uid is not None:
                _open_to_other_users(theirs)
        except OSError as error:
            _close_all(ours)
            _close_all(theirs)
            release_slot()
            raise SandboxUnavailable.with_remedy(
                f"no pipes could be made for a sandbox ({error.strerror})",
                "raise the service's limit on open files",
            ) from error
        client.spawn(sandbox, request, [theirs[name] for name in _LAUNCHER_FDS])
        try:
            async with asyncio.timeout(_SETUP_S):
                await asyncio.shield(sandbox.ready)
        except TimeoutError:
            _close_all(ours)
            client.kill_launcher()
            raise SandboxUnavailable(f"a sandbox was not set up within {_SETUP_S:.0f} s") from None
        except BaseException:
            _close_all(ours)
            client.kill(sandbox, hard=False)
            raise
        return SandboxPipes(sandbox, client, ours)

    async def _ensure_running(self) -> tuple[LauncherClient, SandboxPaths]:
        async with self._start_lock:
            if self._stopped or self._paths is None or self._client is None:
                raise SandboxUnavailable("the sandbox launcher was not started or is shut down")
            if not self._client.alive:
                await self._client.ended.wait()
                await self._back_off()
                await self._start_launcher()
            return self._client, self._paths

    async def _back_off(self) -> None:
        """Delay the restart of a launcher that keeps ending."""
        lifetime = time.monotonic() - self._started_at
        self._failures = 0 if lifetime > _STABLE_S else self._failures + 1
        pause = min(_MIN_BACKOFF_S * 2**self._failures, _MAX_BACKOFF_S)
        await asyncio.sleep(max(0.0, pause - lifetime))

    async def _start_launcher(self) -> None:
        self._started_at = time.monotonic()
        try:
            client = LauncherClient(self._context.child_argv(_LAUNCHER), self._context.child_env())
        except OSError as error:
            raise SandboxUnavailable.with_remedy(
                f"the sandbox launcher could not be started ({error.strerror})",
                "raise the service's limits on processes and open files",
            ) from error
        try:
            mount_layout, *words = await client.build_layout(self._layout_request)
            base, *folders = map(os.fsdecode, unpack(mount_layout))
            self._capabilities = decode_capabilities(*words)
        except BaseException:
            await client.close()
            raise
        mounts = not self._capabilities.no_namespaces
        self._paths = layout.resolve_paths(self._sources, Path(base), folders, mounts=mounts)
        self._slots.resize(self._count_usable_slots())
        self._client = client

    def _count_usable_slots(self) -> int:
        return min(MAX_SLOTS, self.user_ids.count) if self.capabilities.counts_memory else 1


def _build_spawn_request(
    paths: SandboxPaths, slot: int, uid: int | None, limits: KernelLimits, base: str
) -> SpawnRequest:
    try:
        words = argv.build_argv(paths, slot, limits, overlay=bool(base))
    except OSError as error:
        raise SandboxUnavailable.with_remedy(
            f"a folder for the sandbox can't be read ({error.filename}: {error.strerror})",
            "see that the root file system was not removed, and restart the service",
        ) from error
    return SpawnRequest(slot, uid, limits, list(map(os.fsencode, words)), base)


def _kernel_limits(limits: Limits) -> KernelLimits:
    return KernelLimits(
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        cpus=limits.cpus,
        workspace_bytes=limits.workspace_bytes,
        workspace_files=limits.workspace_files,
        tmp_bytes=limits.tmp_bytes,
    )


def _make_pipes(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for name in _INPUTS:
        theirs[name], ours[name] = os.pipe()
    for name in _OUTPUTS:
        ours[name], theirs[name] = os.pipe()
    for fd in ours.values():
        os.set_blocking(fd, False)


def _open_to_other_users(fds: dict[str, int]) -> None:
    """Let a run with a user id of its own open its streams again, as /dev/stdin and the like.

    A pipe has no name but /proc/PID/fd/N, which leads only that user and root there. Of the other
    pipes, which connect the init process with the service, the run's user can open none.
    """
    for name in _PROGRAM_STREAMS:
        os.fchmod(fds[name], _PIPE_MODE)


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
