"""A launcher that can have no namespaces of its own, although bwrap can."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from appliance.domain.execution import MIB, Limits
from tests.support.sandbox import RemoteBackend, run_python, start_as_ordinary_user

pytest_plugins = ["tests.support.sandbox_fixtures"]

LAUNCHER = """
import sys
from plugins.sandboxes.bubblewrap.launcher import main, mounts
mounts.probe_namespaces = lambda: "Permission denied"
sys.exit(main.main([]))
"""


@pytest_asyncio.fixture
async def without_namespaces(ordinary_home: Path) -> AsyncIterator[RemoteBackend]:
    started = await start_as_ordinary_user(ordinary_home, LAUNCHER)
    yield started
    await started.close()


async def test_run_when_the_launcher_has_no_namespaces_then_bwrap_alone_confines(
    without_namespaces: RemoteBackend,
) -> None:
    code = """
try:
    for i in range(20): open(f'f{i}', 'wb').write(b'x' * (1 << 20))
except OSError as error: print(error.errno)
"""
    limits = Limits(wall_s=60, cpu_s=30, workspace_bytes=8 * MIB)
    status = await without_namespaces.probe()
    result = await run_python(without_namespaces, code, limits=limits)

    assert status.available, status
    assert status.isolation is not None
    assert "inode_limit" not in status.isolation.layers
    assert any("no limit on the number of files" in text for text in status.isolation.degraded)
    assert result.stdout == b"28\n"
