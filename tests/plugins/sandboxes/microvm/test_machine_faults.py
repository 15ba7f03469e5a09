"""Real machines whose start is cut short, or whose server is killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.errors import SandboxUnavailable
from plugins._shared.cgroups.controller import CgroupController
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import boot_files, kernel
from plugins.sandboxes.microvm.machine_factory import MachineFactory
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape
from plugins.sandboxes.microvm.qemu_confinement import find_confinement
from plugins.sandboxes.microvm.qemu_spawner import QemuSpawner
from tests.support import microvm
from tests.support.polling import until
from tests.support.sandbox import ROOT, count_descriptors

pytest_plugins = ["tests.support.sandbox_fixtures"]


pytestmark = [pytest.mark.asyncio(loop_scope="module"), microvm.needs_microvm]


async def test_machines_when_the_server_is_killed_then_they_end_too(
    sandbox_python: Path, tmp_path: Path
):
    command = [
        "-m",
        "tests.support.microvm_server",
        str(sandbox_python),
        str(tmp_path),
        str(tmp_path),
    ]
    server = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
    try:
        started = await until(lambda: microvm.qemu_pids_below(server.pid))
    finally:
        server.kill()
        await server.wait()

    await until(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def snapshotless(sandbox_python: Path, home: Path) -> AsyncIterator[MachineFactory]:
    """Machines without a snapshot."""
    user = USER if os.geteuid() == 0 else None
    cgroups, confinement = CgroupController(), find_confinement(home / "run", user)
    parts = boot_files.boot_sources(
        kernel.find_kernel(microvm.KERNEL), Interpreter(sandbox_python), None, ""
    )
    files = boot_files.prepare_boot_files(home / "data", parts)
    machines = MachineFactory(QemuSpawner(files, confinement, cgroups, Accelerator.EMULATION))
    yield machines
    machines.close()
    files.close()
    confinement.close()
    assert cgroups.close()


USER = 2_000_000_998


SHAPE = MachineShape(448, 1)


async def test_machine_that_is_killed_as_it_boots_is_an_error(snapshotless: MachineFactory):
    before = count_descriptors()
    user = USER if os.geteuid() == 0 else None
    booting = asyncio.create_task(snapshotless.take_snapshot(SHAPE, user))
    [machine] = await until(lambda: microvm.qemu_pids_below(os.getpid()))

    os.kill(machine, signal.SIGKILL)

    with pytest.raises(SandboxUnavailable, match="ended during its start"):
        await booting
    assert count_descriptors() == before
