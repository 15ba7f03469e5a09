"""A process that starts a machine and waits, to be killed: its arguments are three folders."""

import asyncio
import os
import sys
from pathlib import Path

from plugins.rootfs.python import Interpreter
from plugins.sandboxes.bubblewrap.fence import Fence
from plugins.sandboxes.microvm import files, kernel
from plugins.sandboxes.microvm.command import Accelerator, Shape
from plugins.sandboxes.microvm.confinement import confine
from plugins.sandboxes.microvm.machines import Machines
from plugins.sandboxes.microvm.starter import Starter
from tests.support.microvm import KERNEL

_USER = 2_000_000_999


async def main(python: Path, data_dir: Path, runtime_dir: Path) -> None:
    user = _USER if os.geteuid() == 0 else None
    confinement = confine(runtime_dir, user)
    made = files.prepare(data_dir, files.parts(kernel.find(KERNEL), Interpreter(python), None, ""))
    machines = Machines(Starter(made, confinement, Fence(), Accelerator.EMULATION))
    await machines.start(Shape(448, 1), user)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
