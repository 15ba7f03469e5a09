"""Starts machines for runs: booted, or resumed from a snapshot.

Booting takes a kernel's and a Python's start. The snapshot is of a machine after that, which has
done nothing else. It is an unnamed file in the data directory, so it disappears with the server,
however that ends. A snapshot that can't be resumed (the host's QEMU may have been replaced) is
discarded, and the next start takes a new one.
"""

import asyncio
import contextlib
import logging
import marshal
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from appliance.domain.execution import Limits
from appliance.errors import ApplianceError, SandboxUnavailable
from appliance.spi.cancellation import run_deferring_cancellation
from plugins.sandboxes.microvm import guest_init, qemu_argv
from plugins.sandboxes.microvm.machine import GuestMachine
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape
from plugins.sandboxes.microvm.qemu_spawner import QemuSpawner
from plugins.sandboxes.microvm.qmp import QmpClient

_SEED_BYTES = 64
# The init process, and what the guest's kernel keeps for a run.
_OVERHEAD_BYTES = 32 * 1024 * 1024
_OVERHEAD_PROCESSES = 1
# For a heavily loaded host; a guest that starts at all is far quicker.
_START_S = {Accelerator.KVM: 10.0, Accelerator.EMULATION: 150.0}
_MAX_SNAPSHOT_FAILURES = 2  # in a row

log = logging.getLogger(__name__)


class MachineFactory:
    """Owns its spawner. `degraded` says why there is no snapshot, if so."""

    def __init__(self, spawner: QemuSpawner) -> None:
        self.spawner = spawner
        self.accelerator = spawner.accelerator
        self.degraded: tuple[str, ...] = ()
        self._snapshot: IO[bytes] | None = None
        self._shape = MachineShape(0, 0)
        self._retaking = asyncio.Lock()
        self._snapshot_lost = False  # and is to be taken again
        self._failures = 0

    async def start(self, shape: MachineShape, user: int | None) -> GuestMachine:
        """A machine that waits for its parameters, or soon will; the caller has to end it.

        Raises SandboxUnavailable.
        """
        shape = self._supported_shape(shape)
        if self._shape.can_hold(shape):
            await self._retake_lost_snapshot(user)
        if self._snapshot is not None and self._shape.can_hold(shape):
            return await self._resume(self._snapshot, user)
        machine = await self.spawner.spawn(shape, user)
        try:
            await machine.wait_ready(_START_S[self.accelerator])
        except (ApplianceError, asyncio.CancelledError):
            await run_deferring_cancellation(machine.end())
            raise
        return machine

    async def take_snapshot(self, shape: MachineShape, user: int | None) -> None:
        """Boot a machine and save it, for all later starts of machines no larger.

        Raises SandboxUnavailable if it does not boot; if only saving it fails, `degraded` says so.
        """
        self._drop_snapshot()
        self._shape = shape = self._supported_shape(shape)
        ours, theirs = socket.socketpair()
        with contextlib.closing(QmpClient(ours)) as monitor:
            with theirs:
                machine = await self.spawner.spawn(shape, user, monitor=theirs.fileno())
            try:
                await machine.wait_ready(_START_S[self.accelerator])
                await self._save(monitor)
            finally:
                await run_deferring_cancellation(machine.end())

    def record_success(self, machine: GuestMachine) -> None:
        """The machine started its run."""
        if machine.snapshot is not None and machine.snapshot is self._snapshot:
            self._failures = 0

    def record_failure(self, machine: GuestMachine) -> bool:
        """The machine did not start its run; whether another try may succeed.

        It may if the machine was resumed from a snapshot, which is discarded.
        """
        if machine.snapshot is not None and machine.snapshot is self._snapshot:
            self._drop_snapshot()
            self._failures += 1
            self._snapshot_lost = self._failures < _MAX_SNAPSHOT_FAILURES
            problem = f"a machine was not resumed from its snapshot ({machine.last_log_line})"
            consequence = "a new one is taken" if self._snapshot_lost else "none is taken again"
            log.warning("%s; %s", problem, consequence)
            if not self._snapshot_lost:
                self._give_up_snapshot(problem)
        return machine.snapshot is not None

    def retry_snapshot(self) -> None:
        """If snapshots were given up, have the next start try again."""
        if self.degraded:
            self.degraded, self._failures, self._snapshot_lost = (), 0, True

    def close(self) -> None:
        """Stop the spawner, and with it every machine that is still alive."""
        self.spawner.close()
        self._drop_snapshot()

    async def _resume(self, snapshot: IO[bytes], user: int | None) -> GuestMachine:
        # Opened again, so that each machine reads from the beginning.
        state = os.open(f"/proc/self/fd/{snapshot.fileno()}", os.O_RDONLY)
        try:
            # It sent READY before the snapshot and does not send it again.
            machine = await self.spawner.spawn(self._shape, user, state=state)
        finally:
            os.close(state)
        machine.snapshot = snapshot
        return machine

    async def _retake_lost_snapshot(self, user: int | None) -> None:
        """If it is cancelled, the next start does it."""
        async with self._retaking:
            if not self._snapshot_lost:
                return
            try:
                await self.take_snapshot(self._shape, user)
            except SandboxUnavailable as error:
                self._give_up_snapshot(error.message)
            self._snapshot_lost = False

    async def _save(self, monitor: QmpClient) -> None:
        """A failure is not fatal: runs start without a snapshot too, only more slowly."""
        try:
            self._snapshot = await asyncio.to_thread(_save_to_file, monitor, self.spawner.folder)
        except SandboxUnavailable as error:
            self._give_up_snapshot(error.message)
            log.warning("%s", self.degraded[0])

    def _give_up_snapshot(self, reason: str) -> None:
        self.degraded = (f"each run boots a machine: {reason}",)

    def _supported_shape(self, shape: MachineShape) -> MachineShape:
        """Emulated CPUs share one of the host's, so more than one only slows a run down."""
        if self.accelerator is Accelerator.KVM:
            return shape
        return MachineShape(shape.memory_mib, 1)

    def _drop_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


def encode_run_parameters(limits: Limits) -> bytes:
    """What a guest is sent before its run; see guest_init.py."""
    parameters: dict[str, Any] = {
        "seed": os.urandom(_SEED_BYTES),
        "clock_ns": time.time_ns(),
        "workspace_bytes": limits.workspace_bytes,
        "workspace_files": limits.workspace_files,
        "tmp_bytes": limits.tmp_bytes,
        "memory_bytes": limits.memory_bytes + _OVERHEAD_BYTES,
        "processes": limits.processes + _OVERHEAD_PROCESSES,
        "cpus": limits.cpus,
    }
    content = marshal.dumps(parameters)
    return guest_init.LENGTH_PREFIX.pack(len(content)) + content


def machine_shape(limits: Limits) -> MachineShape:
    """The smallest machine for a run with these limits."""
    return qemu_argv.shape_for(limits.memory_bytes + _OVERHEAD_BYTES, limits.cpus)


def _save_to_file(monitor: QmpClient, folder: Path) -> IO[bytes]:
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it outlives this function
    except OSError as error:
        raise SandboxUnavailable(f"a machine's state was not saved: {error}") from error
    try:
        monitor.save_state(file.fileno())
    except BaseException:
        file.close()
        raise
    return file
