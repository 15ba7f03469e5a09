"""A process that starts a machine and waits until it is killed; its arguments are three folders."""

import asyncio
import os
import sys
from pathlib import Path

from plugins._shared.cgroups.controller import CgroupController
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import boot_files, kernel
from plugins.sandboxes.microvm.machine_factory import MachineFactory
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape
from plugins.sandboxes.microvm.qemu_confinement import find_confinement
from plugins.sandboxes.microvm.qemu_spawner import QemuSpawner
from tests.support.microvm import KERNEL

_USER = 2_000_000_999


async def main(python: Path, data_dir: Path, runtime_dir: Path) -> None:
    user = _USER if os.geteuid() == 0 else None
    confinement = find_confinement(runtime_dir, user)
    files = boot_files.prepare_boot_files(
        data_dir, boot_files.boot_sources(kernel.find_kernel(KERNEL), Interpreter(python), None, "")
    )
    machines = MachineFactory(
        QemuSpawner(files, confinement, CgroupController(), Accelerator.EMULATION)
    )
    await machines.start(MachineShape(448, 1), user)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
