"""The walls of a run hold in a session: tests of runs, each in a session's second run."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.plugins.sandboxes.bubblewrap import test_isolation, test_limits
from tests.support.sandbox import Backend, start_as_ordinary_user
from tests.support.sandbox_service import plugin_context
from tests.support.sandbox_sessions import InSession, SessionHarness

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

open_place = test_isolation.open_place
test_dangerous_calls_are_refused = test_isolation.test_dangerous_calls_are_refused
test_files_of_the_host_are_not_there = test_isolation.test_files_of_the_host_are_not_there
test_network_can_not_be_reached = test_isolation.test_network_can_not_be_reached
test_no_descriptor_but_the_three_is_open = test_isolation.test_no_descriptor_but_the_three_is_open
test_only_workspace_tmp_and_shm_can_be_written = (
    test_isolation.test_only_workspace_tmp_and_shm_can_be_written
)
test_processes_of_the_host_are_not_there = test_isolation.test_processes_of_the_host_are_not_there
test_program_has_no_capabilities_and_gains_none = (
    test_isolation.test_program_has_no_capabilities_and_gains_none
)
test_report_can_not_be_forged_by_the_program = (
    test_isolation.test_report_can_not_be_forged_by_the_program
)
test_endless_output_is_stopped_and_cut = test_limits.test_endless_output_is_stopped_and_cut
test_filling_the_disk_fails_at_the_limit = test_limits.test_filling_the_disk_fails_at_the_limit
test_memory_of_many_processes_counts_as_a_whole = (
    test_limits.test_memory_of_many_processes_counts_as_a_whole
)
test_one_file_can_not_outgrow_the_workspace = (
    test_limits.test_one_file_can_not_outgrow_the_workspace
)
test_program_can_not_end_or_stop_its_supervisor = (
    test_limits.test_program_can_not_end_or_stop_its_supervisor
)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["user of the tests", "ordinary user"]
)
async def backend(request: pytest.FixtureRequest, sandbox_python: Path) -> AsyncIterator[Backend]:
    ordinary = request.param == "ordinary user"
    home = request.getfixturevalue("ordinary_home") if ordinary else None
    with tempfile.TemporaryDirectory(dir=home) as folder:
        opened: Backend
        if home is not None:
            opened = await start_as_ordinary_user(home)
        else:
            opened = Bubblewrap(plugin_context(sandbox_python, Path(folder)))
        status = await opened.probe()
        if not status.available:
            await opened.close()
            pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")
        yield InSession(SessionHarness(opened, Path(folder, "sessions")))
        await opened.close()
