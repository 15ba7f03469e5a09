"""Machines for runs: fresh, or going on from a snapshot of one that had started.

A fresh one boots a kernel and a Python; one from the snapshot goes on where that was
done and nothing else had happened. The snapshot is an unnamed file in the data directory:
it is gone with the service, however that ends. One that can't be gone on from, as when the
host's QEMU was changed for another, is given up, and the next start makes a new one.
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
from plugins._shared.stage.shield import patiently
from plugins.sandboxes.microvm import guest_init, qemu_argv
from plugins.sandboxes.microvm.machine import Machine
from plugins.sandboxes.microvm.qemu_argv import Accelerator, Shape
from plugins.sandboxes.microvm.qemu_spawner import Starter
from plugins.sandboxes.microvm.qmp import Monitor

_SEED_BYTES = 64
# The stage, and what the guest's kernel keeps for a run.
_OWN_MEMORY = 32 * 1024 * 1024
_OWN_PROCESSES = 1
# On a machine as busy as it may be; a guest that starts at all is far quicker.
_START_S = {Accelerator.KVM: 10.0, Accelerator.EMULATION: 150.0}
_MOST_FAILURES = 2  # one after the other, of snapshots

log = logging.getLogger(__name__)


class Machines:
    """Of one starter, which is its own. `degraded` says why there is no snapshot, if so."""

    def __init__(self, starter: Starter) -> None:
        self.starter = starter
        self.accelerator = starter.accelerator
        self.degraded: tuple[str, ...] = ()
        self._snapshot: IO[bytes] | None = None
        self._shape = Shape(0, 0)
        self._remaking = asyncio.Lock()
        self._lost = False  # the snapshot: a new one is to be made
        self._failures = 0

    async def start(self, shape: Shape, user: int | None) -> Machine:
        """One that waits for its orders, or soon will; the caller is to end it.

        Raises SandboxUnavailable.
        """
        shape = self._possible(shape)
        if self._shape.holds(shape):
            await self._replace_lost(user)
        if self._snapshot is not None and self._shape.holds(shape):
            return await self._go_on(self._snapshot, user)
        machine = await self.starter.launch(shape, user)
        await _met(machine, _START_S[self.accelerator])
        return machine

    async def keep(self, shape: Shape, user: int | None) -> None:
        """Boot one, and keep its snapshot for all later starts of machines no larger.

        Raises SandboxUnavailable if none starts; where only the snapshot fails, `degraded`
        says so.
        """
        self._forget()
        self._shape = shape = self._possible(shape)
        ours, theirs = socket.socketpair()
        with contextlib.closing(Monitor(ours)) as monitor:
            with theirs:
                machine = await self.starter.launch(shape, user, monitor=theirs.fileno())
            try:
                await machine.ready(_START_S[self.accelerator])
                await self._save(monitor)
            finally:
                await patiently(machine.end())

    def trust(self, machine: Machine) -> None:
        """It came to its run."""
        if machine.origin is not None and machine.origin is self._snapshot:
            self._failures = 0

    def distrust(self, machine: Machine) -> bool:
        """It did not come to its run; whether another try may do better.

        That is so where it went on from a snapshot, which is given up.
        """
        if machine.origin is not None and machine.origin is self._snapshot:
            self._forget()
            self._failures += 1
            self._lost = self._failures < _MOST_FAILURES
            said = f"a machine did not go on from its snapshot ({machine.last_words})"
            log.warning("%s; %s", said, "a new one is made" if self._lost else "none is made again")
            if not self._lost:
                self._give_up(said)
        return machine.origin is not None

    def hope_anew(self) -> None:
        """Where there was no snapshot any more, have the next start try again."""
        if self.degraded:
            self.degraded, self._failures, self._lost = (), 0, True

    def close(self) -> None:
        """End the starter, and with it every machine that may still be alive."""
        self.starter.close()
        self._forget()

    async def _go_on(self, snapshot: IO[bytes], user: int | None) -> Machine:
        # Opened anew: each reads from the beginning.
        state = os.open(f"/proc/self/fd/{snapshot.fileno()}", os.O_RDONLY)
        try:
            # It said that it is ready before the snapshot, and will not again.
            machine = await self.starter.launch(self._shape, user, state=state)
        finally:
            os.close(state)
        machine.origin = snapshot
        return machine

    async def _replace_lost(self, user: int | None) -> None:
        """Left undone where that is cancelled, for the next start to do."""
        async with self._remaking:
            if not self._lost:
                return
            try:
                await self.keep(self._shape, user)
            except SandboxUnavailable as error:
                self._give_up(error.message)
            self._lost = False

    async def _save(self, monitor: Monitor) -> None:
        """Without a snapshot all works as well, only later."""
        try:
            self._snapshot = await asyncio.to_thread(_saved, monitor, self.starter.folder)
        except SandboxUnavailable as error:
            self._give_up(error.message)
            log.warning("%s", self.degraded[0])

    def _give_up(self, why: str) -> None:
        self.degraded = (f"each run boots a machine anew: {why}",)

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
    return guest_init.LENGTH.pack(len(packed)) + packed


def shape(limits: Limits) -> Shape:
    """The machine that a run with these limits needs."""
    return qemu_argv.shape(limits.memory_bytes + _OWN_MEMORY, limits.cpus)


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
