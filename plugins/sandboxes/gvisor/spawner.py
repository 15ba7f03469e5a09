"""Starts the launchers, always from the same thread.

A parent-death signal is tied to the thread that started the child; and with control groups of
version 1 that thread enters a run's group to start the launcher in it.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct, structs

from appliance.domain.execution import Limits
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from plugins._shared.cgroups.base import Group
from plugins._shared.cgroups.controller import CgroupController
from plugins._shared.stage.bytecode import pyc_files
from plugins.sandboxes.gvisor.bundle import BundleRoot
from plugins.sandboxes.gvisor.launcher import OVERHEAD_BYTES
from plugins.sandboxes.gvisor.runsc import Runsc
from plugins.sandboxes.gvisor.tmpfs_mounts import launcher_arguments, run_tmpfs_mounts

_LAUNCHER = "plugins.sandboxes.gvisor.launcher"

# Threads on the host: gVisor's own, and those that stand for the program's. gVisor's kernel limits
# the program's processes and threads.
_OVERHEAD_THREADS = 256
_THREADS_PER_PROCESS = 16
_ACCOUNTING_CHECKS, _CHECK_PAUSE_S = 20, 0.002

log = logging.getLogger(__name__)


class LauncherHandle(Struct, frozen=True):
    """A started launcher: its process and the server's ends of its pipes.

    `pidfd` becomes readable when it has ended; the process is then to be reaped. `source` and
    `sink` are the channel to the agent, `log` is the output of launcher and runsc. `folder`
    belongs to the run and holds runsc's state. `cpu_accounted` says that `cgroup` accounts for
    the CPU time of everything that it starts.
    """

    process: "subprocess.Popen[bytes]"
    pidfd: int
    source: int
    sink: int
    log: int
    cgroup: Group | None
    folder: Path
    cpu_accounted: bool


class LauncherCommand(Struct, frozen=True):
    """How launcher.py is started: the words before its arguments, and its environment.

    `direct` says that the started process is the launcher itself.
    """

    argv: list[str]
    env: dict[str, str]
    direct: bool


def launcher_command(home: Path, python: Path | None, context: PluginContext) -> LauncherCommand:
    """Use the bundled Python if there is one, since it starts much faster.

    Raises OSError if the folder `home` can't be written to.
    """
    if python is None:
        return LauncherCommand(context.child_argv(_LAUNCHER), context.child_env(), direct=False)
    for name, content in pyc_files(("plugins._shared.linux", _LAUNCHER)).items():
        (home / name).write_bytes(content)
    argv = [str(python / "bin" / "python3"), "-I", "-S", str(home / "launcher.pyc")]
    return LauncherCommand(argv, {}, direct=True)


class Spawner:
    """Owns the starting thread, the control groups and the folder of the runs."""

    def __init__(
        self, home: Path, runsc: Runsc, root: BundleRoot, launcher: LauncherCommand
    ) -> None:
        self.root = root
        self._home = home
        self._runsc = runsc
        self._launcher = launcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gvisor-start")
        self._stopping = False
        self.cgroups = CgroupController()

    def spawn(self, limits: Limits, platform: str) -> "asyncio.Future[LauncherHandle]":
        """Start a guest that waits for its job.

        The future fails with SandboxUnavailable. It must be awaited to its end, since the caller
        has to reap the process.
        """
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, lambda: self._spawn(limits, platform))

    def release(self, launcher: LauncherHandle) -> None:
        """Remove the folder and control group of a finished run."""
        self.cgroups.release_group(launcher.cgroup)
        shutil.rmtree(launcher.folder, ignore_errors=True)

    def stop(self) -> None:
        """End the thread, and with it every guest that is still alive."""
        self._stopping = True  # seen by calls that wait for the thread
        self._thread.shutdown(wait=True)
        if not self.cgroups.close():
            log.warning("control groups of gVisor's runs are left; the next start removes them")
        shutil.rmtree(self._home, ignore_errors=True)

    def _spawn(self, limits: Limits, platform: str) -> LauncherHandle:
        if self._stopping:
            raise SandboxUnavailable("the sandbox is shut down")
        name = secrets.token_hex(6)
        folder = self._home / name
        cgroup = self.cgroups.create_run_group(_host_limits(limits))
        opened: list[int] = []
        try:
            folder.mkdir(mode=0o700)
            mounts = run_tmpfs_mounts(limits, folder / "tmpfs" if os.geteuid() == 0 else None)
            self.root.write_bundle(folder, mounts)
            memory = 0 if self.cgroups.counts_memory else limits.memory_bytes
            command = self._runsc_command(folder, name, platform)
            arguments = [str(memory), *launcher_arguments(mounts), "--", *command]
            return self._start(arguments, folder, cgroup, opened)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            shutil.rmtree(folder, ignore_errors=True)
            self.cgroups.release_group(cgroup)
            raise SandboxUnavailable.with_remedy(
                f"runsc could not be started ({error.strerror})",
                "check that the server's runtime folder has free space and that its limits on "
                "processes and open files are not reached",
            ) from error

    def _start(
        self, arguments: list[str], folder: Path, cgroup: Group | None, opened: list[int]
    ) -> LauncherHandle:
        child_stdin, sink = _pipe(opened)
        source, child_stdout = _pipe(opened)
        log, child_stderr = _pipe(opened)
        start_read, start_write = _pipe(opened)
        parent = os.getpid() if self._launcher.direct else 0
        with cgroup.spawn_inside() if cgroup else contextlib.nullcontext():
            process = subprocess.Popen(
                [*self._launcher.argv, str(parent), str(start_read), *arguments],
                stdin=child_stdin,
                stdout=child_stdout,
                stderr=child_stderr,
                pass_fds=[start_read],
                env=self._launcher.env,
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal must not reach it
            )
        try:
            if cgroup is not None:
                cgroup.add_process(process.pid)
            pidfd = os.pidfd_open(process.pid)
            os.write(start_write, b"x")
        except OSError:
            process.kill()
            process.wait()
            raise
        for fd in (child_stdin, child_stdout, child_stderr, start_read, start_write):
            os.close(fd)
        for fd in (source, sink, log):
            os.set_blocking(fd, False)
        accounted = cgroup is not None and _accounts_cpu(cgroup)
        return LauncherHandle(process, pidfd, source, sink, log, cgroup, folder, accounted)

    def _runsc_command(self, folder: Path, name: str, platform: str) -> list[str]:
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        return [
            *(str(self._runsc.program), *rootless),
            *("--root", str(folder / "state"), "--log", str(folder / "log")),
            # The launcher is in the run's control group already, and so is all that it starts.
            *("--platform", platform, "--network=none", "--ignore-cgroups"),
            # During a run nobody else changes the host's files that it sees.
            "--file-access-mounts=exclusive",
            *("run", "--bundle", str(folder), name),
        ]


def _host_limits(limits: Limits) -> Limits:
    """What a guest with these limits may use on the host."""
    return structs.replace(
        limits,
        memory_bytes=limits.memory_bytes + OVERHEAD_BYTES,
        processes=limits.processes * _THREADS_PER_PROCESS + _OVERHEAD_THREADS,
    )


def _accounts_cpu(cgroup: Group) -> bool:
    """Whether the kernel accounts for CPU time; a process that was just added has used none."""
    for _ in range(_ACCOUNTING_CHECKS):
        if cgroup.cpu_us():
            return True
        time.sleep(_CHECK_PAUSE_S)
    return False


def _pipe(opened: list[int]) -> tuple[int, int]:
    ends = os.pipe()
    opened += ends
    return ends
