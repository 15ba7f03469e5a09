"""Programs of languages that are not offered: a run can't execute them by any route."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from appliance.domain.execution import RunRequest
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.bwrap.hidden_programs import find_hidden
from tests.support.sandbox import GENEROUS
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_SPAWN = """
import subprocess, sys
for name in ('node', 'nodejs', 'bash', 'cc', 'gcc', 'javac', '/usr/bin/node', '/usr/bin/bash'):
    try:
        if subprocess.run([name, '--version'], capture_output=True).returncode == 0:
            print(name)
    except OSError:
        pass
print(subprocess.run('echo shell', shell=True, capture_output=True).stdout)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def python_only(sandbox_python: Path) -> AsyncIterator[Bubblewrap]:
    with tempfile.TemporaryDirectory() as folder:
        context = plugin_context(sandbox_python, Path(folder))
        started = Bubblewrap(structs.replace(context, settings={"languages": ("python",)}))
        status = await started.probe()
        if status.available:
            yield started
        await started.close()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")


async def test_programs_when_a_python_program_starts_them_then_none_runs(
    python_only: Bubblewrap,
) -> None:
    """F71"""
    result = await python_only.run(RunRequest(("python", "-c", _SPAWN), limits=GENEROUS))

    assert result.stdout == b"b'shell\\n'\n", result
    assert set((await python_only.probe()).languages) == {"python", "sh"}


@pytest.mark.skipif(
    shutil.which("node", path="/usr/bin:/bin") is None,
    reason="needs node: Node.js is not on this machine",
)
async def test_node_when_not_offered_then_it_cannot_be_executed(python_only: Bubblewrap) -> None:
    """F71"""
    result = await python_only.run(RunRequest(("node", "-p", "1"), limits=GENEROUS))

    assert (result.exit_code, result.stdout) == (126, b"")


async def test_links_of_a_root_when_hostile_then_never_followed_on_the_host(
    tmp_path: Path,
) -> None:
    binaries = tmp_path / "usr" / "bin"
    binaries.mkdir(parents=True)
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "real-node").write_text("")
    (tmp_path / "bin").symlink_to("usr/bin")
    (binaries / "node").symlink_to("/opt/real-node")
    (binaries / "npm").symlink_to("../../../../../usr/bin/npm")
    (binaries / "gcc").symlink_to("/etc/passwd")
    (binaries / "bash").write_text("")
    (binaries / "sh").symlink_to("bash")

    assert find_hidden(tmp_path, (), ("python",)) == ("/opt/real-node",)
    assert find_hidden(tmp_path, (), ("*",)) == ()
