"""Starts machines: fresh, or going on from a snapshot of one that had started.

A fresh one boots a kernel and a Python; one from the snapshot goes on where that was
done and nothing else had happened. The snapshot is an unnamed file in the data directory:
it is gone with the service, however that ends.
"""

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from appliance.domain.execution import Limits
from appliance.errors import ApplianceError, SandboxUnavailable
from plugins.inside.patience import patiently
from plugins.inside.unavailable import unavailable
from plugins.sandboxes.microvm import command, init
from plugins.sandboxes.microvm.command import Accelerator, Shape
from plugins.sandboxes.microvm.confinement import Confinement
from plugins.sandboxes.microvm.files import Files
from plugins.sandboxes.microvm.machine import Machine
from plugins.sandboxes.microvm.monitor import Monitor

_SEED_BYTES = 64
_FIRST_TO_DIE = "1000"
# The stage, and what the guest's kernel keeps for a run.
_OWN_MEMORY = 32 * 1024 * 1024
_OWN_PROCESSES = 1
# On a machine as busy as it may be; a guest that starts at all is far quicker.
_START_S = {Accelerator.KVM: 10.0, Accelerator.EMULATION: 150.0}


class _Started(Struct, frozen=True):
    """What the starting thread hands to the loop."""

    process: "subprocess.Popen[bytes]"
    port: socket.socket
    log: int


class Machines:
    """For one accelerator. To be made on the loop."""

    def __init__(self, files: Files, confinement: Confinement, accelerator: Accelerator) -> None:
        self.confinement = confinement
        self.accelerator = accelerator
        self.degraded: tuple[str, ...] = ()
        self._files = files
        # What dies with its parent dies with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="microvm-start")
        self._snapshot: IO[bytes] | None = None
        self._snapshot_shape = Shape(0, 0)

    async def start(self, shape: Shape, user: int | None) -> Machine:
        """One that waits for its orders, or soon will; the caller is to end it.

        Raises SandboxUnavailable.
        """
        shape = self._possible(shape)
        if self._snapshot is not None and self._snapshot_shape.holds(shape):
            state = os.open(f"/proc/self/fd/{self._snapshot.fileno()}", os.O_RDONLY)
            try:
                # It said that it is ready before the snapshot, and will not again.
                return await self._launch(self._snapshot_shape, user, state=state)
            finally:
                os.close(state)
        machine = await self._launch(shape, user)
        await _met(machine, _START_S[self.accelerator])
        return machine

    async def keep(self, shape: Shape, user: int | None) -> None:
        """Boot one, and keep its snapshot for all later starts of machines no larger.

        Raises SandboxUnavailable if none starts; where only the snapshot fails, `degraded`
        says so.
        """
        self._forget()
        shape = self._possible(shape)
        ours, theirs = socket.socketpair()
        with contextlib.closing(Monitor(ours)) as monitor:
            with theirs:
                machine = await self._launch(shape, user, monitor=theirs.fileno())
            try:
                await machine.ready(_START_S[self.accelerator])
                await self._save(monitor)
                self._snapshot_shape = shape
            finally:
                await patiently(machine.end())

    async def _save(self, monitor: Monitor) -> None:
        """Without a snapshot all works as well, only later."""
        try:
            self._snapshot = await asyncio.to_thread(_saved, monitor, self._files.folder)
        except SandboxUnavailable as error:
            self.degraded = (f"each run boots a machine anew: {error.message}",)

    def close(self) -> None:
        """End the starting thread, and with it every machine that may still be alive."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._forget()

    async def _launch(
        self,
        shape: Shape,
        user: int | None,
        *,
        state: int | None = None,
        monitor: int | None = None,
    ) -> Machine:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._start, shape, user, state, monitor)
        started, cancelled = await patiently(work)
        machine = Machine(started.process, started.port, started.log)
        if cancelled:
            await patiently(machine.end())
            raise asyncio.CancelledError
        return machine

    def _start(
        self, shape: Shape, user: int | None, state: int | None, monitor: int | None
    ) -> _Started:
        ours, theirs = socket.socketpair()
        log, log_end = os.pipe()
        os.set_blocking(log, False)
        fds = command.Descriptors(
            kernel=self._files.kernel,
            initramfs=self._files.initramfs,
            root=self._files.root,
            port=theirs.fileno(),
            monitor=monitor,
            state=state,
        )
        words = command.arguments(self.accelerator, shape, fds)
        try:
            process = self.confinement.start(words, fds.all(), log_end, user)
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            os.close(log)
            raise unavailable(
                f"QEMU could not be started ({error})",
                "see that the service's runtime folder may hold programs (no noexec mount), and "
                "that the limits on processes and open files leave room",
            ) from error
        finally:
            theirs.close()
            os.close(log_end)
        # When memory runs out, the kernel is to pick a machine and not the service.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_FIRST_TO_DIE)
        return _Started(process, ours, log)

    def _possible(self, shape: Shape) -> Shape:
        """Emulated processors take turns on one of the host's, and are the slower for it."""
        return shape if self.accelerator is Accelerator.KVM else Shape(shape.memory_mib, 1)

    def _forget(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


def orders(limits: Limits) -> bytes:
    """What a guest is told before its run; see init.py."""
    words: dict[str, Any] = {
        "seed": os.urandom(_SEED_BYTES),
        "clock_ns": time.time_ns(),
        "workspace_bytes": limits.workspace_bytes,
        "workspace_files": limits.workspace_files,
        "tmp_bytes": limits.tmp_bytes,
        "memory_bytes": limits.memory_bytes + _OWN_MEMORY,
        "processes": limits.processes + _OWN_PROCESSES,
        "cpus": limits.cpus,
    }
    packed = marshal.dumps(words)
    return init.LENGTH.pack(len(packed)) + packed


def shape(limits: Limits) -> Shape:
    """The machine that a run with these limits needs."""
    return command.shape(limits.memory_bytes + _OWN_MEMORY, limits.cpus)


async def _met(machine: Machine, seconds: float) -> None:
    try:
        await machine.ready(seconds)
    except (ApplianceError, asyncio.CancelledError):
        await patiently(machine.end())
        raise


def _saved(monitor: Monitor, folder: Path) -> IO[bytes]:
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it outlives this function
    except OSError as error:
        raise SandboxUnavailable(f"a machine's state was not saved: {error}") from error
    try:
        monitor.save(file.fileno())
    except BaseException:
        file.close()
        raise
    return file
