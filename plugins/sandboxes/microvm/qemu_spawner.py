"""Starts QEMU, always from the same thread, and each in a control group of its own.

A parent-death signal is tied to the thread that started the child; and with control groups of
version 1 that thread enters a machine's group to start QEMU in it.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from appliance.spi.cancellation import run_deferring_cancellation
from plugins._shared.cgroups.base import Group
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.microvm import qemu_argv
from plugins.sandboxes.microvm.boot_files import BootFiles
from plugins.sandboxes.microvm.machine import GuestMachine
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape
from plugins.sandboxes.microvm.qemu_confinement import QemuConfinement, QemuLimits

_MIB = 1024 * 1024
_HIGHEST_OOM_SCORE = "1000"
# QEMU's memory beside the guest's; with emulation a quarter of it is translated code.
_OVERHEAD_BYTES = 256 * _MIB
# The same with the stacks of its threads at their largest.
_OVERHEAD_DATA_BYTES = 1024 * _MIB
_OVERHEAD_THREADS = 96  # at most 64 of them are temporary ones that read the disk
_STATE_OVERHEAD_BYTES = 64 * _MIB


class HostLimits(Struct, frozen=True):
    """What a machine may use on the host; a cgroups.base.GroupLimits."""

    memory_bytes: int
    processes: int
    cpus: float


class _QemuHandle(Struct, frozen=True):
    """What the starting thread passes to the event loop."""

    process: "subprocess.Popen[bytes]"
    port: socket.socket
    log: int
    cgroup: Group | None


class QemuSpawner:
    """Starts machines with one accelerator. To be created on the event loop.

    The caller keeps the ownership of the arguments. `folder` is where the boot files lie.
    """

    def __init__(
        self,
        files: BootFiles,
        confinement: QemuConfinement,
        cgroups: CgroupController,
        accelerator: Accelerator,
    ) -> None:
        self.accelerator = accelerator
        self.folder = files.folder
        self._files = files
        self._confinement = confinement
        self._cgroups = cgroups
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="microvm-start")

    @property
    def layers(self) -> tuple[str, ...]:
        """What confines QEMU."""
        cgroup_layers = self._cgroups.layers if self._cgroups.counts_memory else ()
        return (*self._confinement.layers, *(f"qemu_{layer}" for layer in cgroup_layers))

    @property
    def degraded(self) -> tuple[str, ...]:
        if not self._cgroups.counts_memory:
            cgroup_lacks = (
                f"no control group for QEMU ({self._cgroups.unavailable_reason}): its memory is "
                "limited per process, its CPUs by their number alone",
            )
        else:
            cgroup_lacks = self._cgroups.degraded
        return (*self._confinement.degraded, *cgroup_lacks)

    async def spawn(
        self,
        shape: MachineShape,
        user: int | None,
        *,
        state: int | None = None,
        monitor: int | None = None,
    ) -> GuestMachine:
        """A machine that boots, or is resumed from `state`; with a monitor it can be saved.

        Raises SandboxUnavailable.
        """
        self._require_open()
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._thread, self._start, shape, user, state, monitor)
        qemu, cancelled = await run_deferring_cancellation(starting)
        machine = GuestMachine(
            qemu.process, qemu.port, qemu.log, qemu.cgroup, self._cgroups.release_group
        )
        if cancelled:
            await run_deferring_cancellation(machine.end())
            raise asyncio.CancelledError
        return machine

    def close(self) -> None:
        """End the thread, and with it every machine that is still alive."""
        self._stopping = True  # seen by calls that wait for the thread
        self._thread.shutdown(wait=True)

    def _require_open(self) -> None:
        if self._stopping:
            raise SandboxUnavailable("the sandbox is shut down")

    def _start(
        self, shape: MachineShape, user: int | None, state: int | None, monitor: int | None
    ) -> _QemuHandle:
        self._require_open()
        cgroup = self._cgroups.create_run_group(host_limits(shape))
        ours, theirs = socket.socketpair()
        log, log_end = os.pipe()
        os.set_blocking(log, False)
        fds = qemu_argv.QemuDescriptors(
            kernel=self._files.kernel,
            initramfs=self._files.initramfs,
            root=self._files.root,
            port=theirs.fileno(),
            monitor=monitor,
            state=state,
        )
        arguments = qemu_argv.qemu_arguments(self.accelerator, shape, fds)
        memory = shape.memory_mib * _MIB
        state_bytes = memory + _STATE_OVERHEAD_BYTES if monitor is not None else 0
        limits = QemuLimits(memory + _OVERHEAD_DATA_BYTES, state_bytes)

        def add_to_cgroup(pid: int) -> None:
            if cgroup is not None:
                cgroup.add_process(pid)
            _prefer_for_oom_kill(pid)

        try:
            with cgroup.spawn_inside() if cgroup else contextlib.nullcontext():
                process = self._confinement.start(
                    arguments, fds.all(), log_end, user, limits=limits, before_exec=add_to_cgroup
                )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            os.close(log)
            self._cgroups.release_group(cgroup)
            raise SandboxUnavailable.with_remedy(
                f"QEMU could not be started ({error})",
                "check that programs may be executed in the server's runtime folder (no noexec "
                "mount), and that its limits on processes and open files are not reached",
            ) from error
        finally:
            theirs.close()
            os.close(log_end)
        return _QemuHandle(process, ours, log, cgroup)


def host_limits(shape: MachineShape) -> HostLimits:
    """What a machine of this shape may use on the host."""
    memory = shape.memory_mib * _MIB + _OVERHEAD_BYTES
    return HostLimits(memory, _OVERHEAD_THREADS + shape.processors, shape.processors)


def _prefer_for_oom_kill(pid: int) -> None:
    """When memory runs out, the kernel should kill a machine and not the server."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_HIGHEST_OOM_SCORE)
