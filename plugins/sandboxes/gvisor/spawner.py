"""Starts the launchers, always from one and the same thread.

The kernel ties a child that dies with its parent to the thread that started it, and with
control groups of version 1 that thread steps into a run's groups to start it there.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, structs

from appliance.domain.execution import Limits
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from plugins._shared.cgroups.base import Group
from plugins._shared.cgroups.control import Fence
from plugins._shared.guest.agent_bundle import compiled
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.gvisor.bundle import Root
from plugins.sandboxes.gvisor.launcher import OWN_MEMORY
from plugins.sandboxes.gvisor.runsc import Runsc
from plugins.sandboxes.gvisor.tmpfs_mounts import made_by_launcher, rooms

_LAUNCHER = "plugins.sandboxes.gvisor.launcher"

# Threads of the host: gVisor's own, and those that stand for the program's. How many
# processes and threads the program has is limited by gVisor's kernel.
_OWN_PROCESSES = 256
_THREADS_PER_PROCESS = 16
_LOOKS, _LOOK_S = 20, 0.002

log = logging.getLogger(__name__)


class Started(Struct, frozen=True):
    """A launcher that was started: its process and our ends of its pipes.

    `pidfd` becomes readable when it has ended; it is then to be reaped by its pid.
    `source` and `sink` are the channel to the agent, `log` is what launcher and runsc say.
    `folder` is the run's own, and holds what runsc keeps. `counted` says that the host keeps
    an account of the processor time of all that it starts.
    """

    process: "subprocess.Popen[bytes]"
    pidfd: int
    source: int
    sink: int
    log: int
    group: Group | None
    folder: Path
    counted: bool


class Launcher(Struct, frozen=True):
    """How launch.py is started: words before its arguments, and its environment.

    `direct` says that the process so started is the launcher itself.
    """

    words: list[str]
    env: dict[str, str]
    direct: bool


def launcher(home: Path, python: Path | None, context: PluginContext) -> Launcher:
    """By the box's own Python if there is one, since that starts much quicker.

    Raises OSError if the folder `home` can't be written to.
    """
    if python is None:
        return Launcher(context.child_argv(_LAUNCHER), context.child_env(), direct=False)
    program = home / "launch.pyc"
    program.write_bytes(compiled(_LAUNCHER))
    return Launcher([str(python / "bin" / "python3"), "-I", "-S", str(program)], {}, direct=True)


class Spawner:
    """Owns the starting thread, the control groups and the folder of the runs."""

    def __init__(self, home: Path, runsc: Runsc, root: Root, launcher: Launcher) -> None:
        self.root = root
        self._home = home
        self._runsc = runsc
        self._launcher = launcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gvisor-start")
        self._stopping = False
        self.fence = Fence()

    def spawn(self, limits: Limits, platform: str) -> "asyncio.Future[Started]":
        """Start a guest that waits for its job.

        The future fails with SandboxUnavailable. It must be awaited to its end, since the
        process is the caller's to reap.
        """
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, lambda: self._spawn(limits, platform))

    def clear(self, started: Started) -> None:
        """Remove what a run that is over has left."""
        self.fence.give_up(started.group)
        shutil.rmtree(started.folder, ignore_errors=True)

    def stop(self) -> None:
        """End the thread, and with it every guest that may still be alive."""
        self._stopping = True  # those that wait for the thread hear of it there
        self._thread.shutdown(wait=True)
        if not self.fence.close():
            log.warning("control groups of gVisor's runs are left; the next start removes them")
        shutil.rmtree(self._home, ignore_errors=True)

    def _spawn(self, limits: Limits, platform: str) -> Started:
        if self._stopping:
            raise SandboxUnavailable("the sandbox is shut down")
        name = secrets.token_hex(6)
        folder = self._home / name
        group = self.fence.make(_room(limits))
        opened: list[int] = []
        try:
            folder.mkdir(mode=0o700)
            held = rooms(limits, folder / "rooms" if os.geteuid() == 0 else None)
            self.root.write_bundle(folder, held)
            watched = 0 if self.fence.counts_memory else limits.memory_bytes
            command = self._command(folder, name, platform)
            words = [str(watched), *made_by_launcher(held), "--", *command]
            return self._start(words, folder, group, opened)
        except OSError as error:
            _undo(opened, folder, lambda: self.fence.give_up(group))
            raise unavailable(
                f"runsc could not be started ({error.strerror})",
                "see that the service's runtime folder has room, and that the limits on "
                "processes and open files leave some",
            ) from error

    def _start(
        self, words: list[str], folder: Path, group: Group | None, opened: list[int]
    ) -> Started:
        theirs_in, sink = _pipe(opened)
        source, theirs_out = _pipe(opened)
        log, theirs_log = _pipe(opened)
        gate, opening = _pipe(opened)
        parent = os.getpid() if self._launcher.direct else 0
        with group.birthplace() if group else contextlib.nullcontext():
            process = subprocess.Popen(
                [*self._launcher.words, str(parent), str(gate), *words],
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=theirs_log,
                pass_fds=[gate],
                env=self._launcher.env,
                cwd="/",
                # A Ctrl-C at the terminal is the service's business.
                start_new_session=True,
            )
        try:
            if group is not None:
                group.take_in(process.pid)
            pidfd = os.pidfd_open(process.pid)
            os.write(opening, b"x")
        except OSError:
            process.kill()
            process.wait()
            raise
        for fd in (theirs_in, theirs_out, theirs_log, gate, opening):
            os.close(fd)
        for fd in (source, sink, log):
            os.set_blocking(fd, False)
        counted = group is not None and _counts(group)
        return Started(process, pidfd, source, sink, log, group, folder, counted)

    def _command(self, folder: Path, name: str, platform: str) -> list[str]:
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        return [
            *(str(self._runsc.program), *rootless),
            *("--root", str(folder / "state"), "--log", str(folder / "log")),
            # The groups are ours: they hold the launcher, and so all that it starts.
            *("--platform", platform, "--network=none", "--ignore-cgroups"),
            # While a run goes on, nobody else changes what it is shown of the host.
            "--file-access-mounts=exclusive",
            *("run", "--bundle", str(folder), name),
        ]


def _room(limits: Limits) -> Limits:
    """What the host has to give for a guest of these limits."""
    return structs.replace(
        limits,
        memory_bytes=limits.memory_bytes + OWN_MEMORY,
        processes=limits.processes * _THREADS_PER_PROCESS + _OWN_PROCESSES,
    )


def _counts(group: Group) -> bool:
    """Whether there is an account: one that was just moved there has used nothing yet."""
    for _ in range(_LOOKS):
        if group.cpu_us():
            return True
        time.sleep(_LOOK_S)
    return False


def _pipe(opened: list[int]) -> tuple[int, int]:
    ends = os.pipe()
    opened += ends
    return ends


def _undo(opened: list[int], folder: Path, give_up: Callable[[], None]) -> None:
    for fd in opened:
        os.close(fd)
    shutil.rmtree(folder, ignore_errors=True)
    give_up()
