"""A launcher that the machine gives no namespaces of its own, though it gives bwrap some."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from appliance.domain.execution import MIB, Limits
from tests.support.sandbox import OtherUsersBackend, run_python, start_as_ordinary_user

pytest_plugins = ["tests.support.sandbox_fixtures"]

LAUNCHER = """
import sys
from plugins.sandboxes.bubblewrap import launcher, nest
nest.why_not = lambda: "Permission denied"
sys.exit(launcher.main([]))
"""


@pytest_asyncio.fixture
async def held_back(ordinary_home: Path) -> AsyncIterator[OtherUsersBackend]:
    started = await start_as_ordinary_user(ordinary_home, LAUNCHER)
    yield started
    await started.close()


async def test_run_when_the_launcher_has_no_namespaces_then_bwrap_alone_confines(
    held_back: OtherUsersBackend,
) -> None:
    code = """
try:
    for i in range(20): open(f'f{i}', 'wb').write(b'x' * (1 << 20))
except OSError as error: print(error.errno)
"""
    limits = Limits(wall_s=60, cpu_s=30, workspace_bytes=8 * MIB)
    status = await held_back.probe()
    result = await run_python(held_back, code, limits=limits)

    assert status.available, status
    assert status.isolation is not None
    assert "inode_limit" not in status.isolation.layers
    assert any("no limit on the number of files" in lack for lack in status.isolation.degraded)
    assert result.stdout == b"28\n"
