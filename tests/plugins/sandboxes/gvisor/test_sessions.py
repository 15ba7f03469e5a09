"""Sessions in the real gVisor."""

from pathlib import Path

import pytest

from plugins.sandboxes.gvisor.backend import GVisor
from tests.plugins.sandboxes.gvisor import test_runs
from tests.support.sandbox import GENEROUS
from tests.support.sandbox_sessions import SessionHarness, check_workspace_outlives_runs

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

backend = test_runs.backend
runtime_dir = test_runs.runtime_dir


async def test_session_when_programs_run_in_gvisor_then_its_files_stay(
    backend: GVisor, tmp_path: Path
) -> None:
    await check_workspace_outlives_runs(SessionHarness(backend, tmp_path / "s"), GENEROUS)
