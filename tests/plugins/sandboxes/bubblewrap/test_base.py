"""A run above a read-only base: by an overlay mount, and copied where there can be none."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from appliance.domain.execution import MIB, BaseMeans, RunRequest, SandboxFile
from appliance.errors import InvalidInput
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox import GENEROUS, ORDINARY_USER, Backend
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_CHANGE = (
    "cat a d/y; echo new > a; rm d/y; rm -r deep; mkdir deep; echo n > deep/n; chmod 700 run; "
    "./run; find . -mindepth 1 | sort; echo x > /.workspace-changes/a 2>&1"
)
_SEEN = b"oldy" + b"ran\n" + b"./a\n./d\n./deep\n./deep/n\n./given\n./link\n./run\n"


@pytest.fixture
def base(backend: Backend, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that belongs to the user of the backend."""
    ordinary = "ordinary" in request.node.callspec.id
    home = request.getfixturevalue("ordinary_home") if ordinary else None
    with tempfile.TemporaryDirectory(dir=home) as name:
        folder = Path(name, "base")
        for sub in ("d", "deep/er"):
            (folder / sub).mkdir(parents=True)
        contents = {"a": "old", "d/y": "y", "deep/er/z": "z", "run": "#!/bin/sh\necho ran\n"}
        for path, text in contents.items():
            (folder / path).write_text(text)
        (folder / "link").symlink_to("a")
        for path in (Path(name), folder, *folder.rglob("*")):
            if ordinary:
                os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)
        yield folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


async def test_base_when_a_program_changes_it_then_only_the_run_sees_that(
    backend: Backend, base: Path
) -> None:
    before = _contents(base)
    request = RunRequest(
        ("sh", "-c", _CHANGE),
        files=(SandboxFile("given", b"g"), SandboxFile("a", b"old")),
        limits=GENEROUS,
        base=str(base),
    )

    result = await backend.run(request)

    assert result.base is BaseMeans.OVERLAY
    assert result.stdout == _SEEN, result
    assert _contents(base) == before
    again = await backend.run(RunRequest(("cat", "d/y"), limits=GENEROUS, base=str(base)))
    assert again.stdout == b"y"


async def test_base_when_changed_up_to_the_limits_then_they_hold(
    backend: Backend, base: Path
) -> None:
    limits = structs.replace(GENEROUS, workspace_bytes=MIB, workspace_files=16)
    script = "head -c 2000000 /dev/zero > big; rm big; for n in $(seq 30); do touch f$n; done; ls"

    result = await backend.run(RunRequest(("sh", "-c", script), limits=limits, base=str(base)))

    assert result.stderr.count(b"No space left") >= 2
    assert 8 <= result.stdout.count(b"f") <= 20


async def test_base_when_the_limits_are_the_smallest_then_the_overlay_is_mounted_all_the_same(
    backend: Backend, base: Path
) -> None:
    smallest = structs.replace(GENEROUS, workspace_bytes=1, workspace_files=1)

    result = await backend.run(RunRequest(("cat", "a"), limits=smallest, base=str(base)))

    assert (result.base, result.stdout) == (BaseMeans.OVERLAY, b"old")


async def test_base_when_it_is_no_folder_then_refused(backend: Backend, base: Path) -> None:
    for wrong in (str(base / "a"), str(base / "gone"), "relative"):
        with pytest.raises(InvalidInput, match="base: is not a folder"):
            await backend.run(RunRequest(("sh",), limits=GENEROUS, base=wrong))


async def test_base_when_no_overlay_can_be_mounted_then_copied_within_the_limits(
    sandbox_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.sandboxes.bubblewrap.bwrap.argv.CHANGES", "/proc/nothing/x")
    base, runtime_dir = tmp_path / "base", tmp_path / "run"
    (base / "d").mkdir(parents=True)
    runtime_dir.mkdir()
    (base / "d" / "file").write_text("text")
    (base / "d" / "link").symlink_to("file")
    backend = Bubblewrap(plugin_context(sandbox_python, runtime_dir))
    status = await backend.probe()
    if not status.available:
        await backend.close()
        pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")

    request = RunRequest(("sh", "-c", "cat d/link; rm d/file"), limits=GENEROUS, base=str(base))
    results = [await backend.run(request) for _ in range(2)]
    small = structs.replace(request, limits=structs.replace(GENEROUS, workspace_files=2))
    with pytest.raises(InvalidInput, match="base: does not fit into the workspace"):
        await backend.run(small)
    await backend.close()

    assert [(result.base, result.stdout) for result in results] == [(BaseMeans.COPY, b"text")] * 2
    assert (base / "d" / "file").read_text() == "text"
