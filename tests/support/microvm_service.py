"""A process that starts a machine and waits, to be killed: its arguments are three folders."""

import asyncio
import os
import sys
from pathlib import Path

from plugins._shared.cgroups.control import Fence
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import boot_files, kernel
from plugins.sandboxes.microvm.machine_pool import Machines
from plugins.sandboxes.microvm.qemu_argv import Accelerator, Shape
from plugins.sandboxes.microvm.qemu_confinement import confine
from plugins.sandboxes.microvm.qemu_spawner import Starter
from tests.support.microvm import KERNEL

_USER = 2_000_000_999


async def main(python: Path, data_dir: Path, runtime_dir: Path) -> None:
    user = _USER if os.geteuid() == 0 else None
    confinement = confine(runtime_dir, user)
    made = boot_files.prepare(
        data_dir, boot_files.parts(kernel.find(KERNEL), Interpreter(python), None, "")
    )
    machines = Machines(Starter(made, confinement, Fence(), Accelerator.EMULATION))
    await machines.start(Shape(448, 1), user)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
