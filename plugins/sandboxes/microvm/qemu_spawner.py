"""Starts QEMU, always from one and the same thread, and each in a control group of its own.

What dies with its parent dies with the thread that started it, and with control groups of
version 1 that thread steps into a machine's groups to start it there.
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
from plugins._shared.cgroups.base import Group
from plugins._shared.cgroups.control import Fence
from plugins._shared.stage.shield import patiently
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.microvm import qemu_argv
from plugins.sandboxes.microvm.boot_files import Files
from plugins.sandboxes.microvm.machine import Machine
from plugins.sandboxes.microvm.qemu_argv import Accelerator, Shape
from plugins.sandboxes.microvm.qemu_confinement import Bounds, Confinement

_MIB = 1024 * 1024
_FIRST_TO_DIE = "1000"
# What QEMU takes beside the guest's memory; a fourth of it are translations, where it emulates.
_OWN_MEMORY = 256 * _MIB
# The same with what the stacks of its threads may grow to.
_OWN_ROOM = 1024 * _MIB
_OWN_PROCESSES = 96  # threads that read the disk come and go, 64 of them at most
_STATE_MORE = 64 * _MIB


class Room(Struct, frozen=True):
    """What the host has to give for a machine; see bubblewrap.groups.Limited."""

    memory_bytes: int
    processes: int
    cpus: float


class _Started(Struct, frozen=True):
    """What the starting thread hands to the loop."""

    process: "subprocess.Popen[bytes]"
    port: socket.socket
    log: int
    group: Group | None


class Starter:
    """For one accelerator. To be made on the loop. What it is given remains the caller's.

    `folder` is where the files lie, with room for more.
    """

    def __init__(
        self, files: Files, confinement: Confinement, fence: Fence, accelerator: Accelerator
    ) -> None:
        self.accelerator = accelerator
        self.folder = files.folder
        self._files = files
        self._confinement = confinement
        self._fence = fence
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="microvm-start")

    @property
    def layers(self) -> tuple[str, ...]:
        """What keeps QEMU in."""
        held = self._fence.layers if self._fence.counts_memory else ()
        return (*self._confinement.layers, *(f"qemu_{layer}" for layer in held))

    @property
    def degraded(self) -> tuple[str, ...]:
        if not self._fence.counts_memory:
            lack = (
                f"no control group for QEMU ({self._fence.lack}): its memory is held by a limit "
                "of its process, its processors by their number alone",
            )
        else:
            lack = self._fence.degraded
        return (*self._confinement.degraded, *lack)

    async def launch(
        self,
        shape: Shape,
        user: int | None,
        *,
        state: int | None = None,
        monitor: int | None = None,
    ) -> Machine:
        """One that boots, or goes on from `state`; with a monitor it may write its own.

        Raises SandboxUnavailable.
        """
        self._require_open()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._start, shape, user, state, monitor)
        started, cancelled = await patiently(work)
        machine = Machine(
            started.process, started.port, started.log, started.group, self._fence.give_up
        )
        if cancelled:
            await patiently(machine.end())
            raise asyncio.CancelledError
        return machine

    def close(self) -> None:
        """End the thread, and with it every machine that may still be alive."""
        self._stopping = True  # those that wait for the thread hear of it there
        self._thread.shutdown(wait=True)

    def _require_open(self) -> None:
        if self._stopping:
            raise SandboxUnavailable("the sandbox is shut down")

    def _start(
        self, shape: Shape, user: int | None, state: int | None, monitor: int | None
    ) -> _Started:
        self._require_open()
        group = self._fence.make(room(shape))
        ours, theirs = socket.socketpair()
        log, log_end = os.pipe()
        os.set_blocking(log, False)
        fds = qemu_argv.Descriptors(
            kernel=self._files.kernel,
            initramfs=self._files.initramfs,
            root=self._files.root,
            port=theirs.fileno(),
            monitor=monitor,
            state=state,
        )
        words = qemu_argv.arguments(self.accelerator, shape, fds)
        memory = shape.memory_mib * _MIB
        bounds = Bounds(memory + _OWN_ROOM, memory + _STATE_MORE if monitor is not None else 0)

        def take_in(pid: int) -> None:
            if group is not None:
                group.take_in(pid)
            _be_first_to_die(pid)

        try:
            with group.birthplace() if group else contextlib.nullcontext():
                process = self._confinement.start(
                    words, fds.all(), log_end, user, bounds=bounds, take_in=take_in
                )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            os.close(log)
            self._fence.give_up(group)
            raise unavailable(
                f"QEMU could not be started ({error})",
                "see that the service's runtime folder may hold programs (no noexec mount), and "
                "that the limits on processes and open files leave room",
            ) from error
        finally:
            theirs.close()
            os.close(log_end)
        return _Started(process, ours, log, group)


def room(shape: Shape) -> Room:
    """What the host has to give for a machine of this shape."""
    memory = shape.memory_mib * _MIB + _OWN_MEMORY
    return Room(memory, _OWN_PROCESSES + shape.processors, shape.processors)


def _be_first_to_die(pid: int) -> None:
    """When memory runs out, the kernel is to pick a machine and not the service."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(_FIRST_TO_DIE)
