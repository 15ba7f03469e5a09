"""The sandbox's own Python: created once, atomically, by concurrent processes too."""

import asyncio
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from appliance.errors import SetupError
from appliance.sandbox.python import build as python_build
from appliance.sandbox.python import runtime

pytest_plugins = ["tests.support.sandbox_fixtures"]


def run(tree: Path, code: str) -> str:
    return python_build.run_python(tree, ["-I", "-c", code]).strip()


def test_python_is_of_our_version_and_looks_only_at_itself(sandbox_python: Path):
    version = run(sandbox_python, "import sys; print(sys.version)")
    paths = run(sandbox_python, "import sys; print(*sys.path, sys.prefix, sep='\\n')").splitlines()

    assert version == sys.version
    assert all(Path(path).is_relative_to(sandbox_python) for path in paths)


def test_python_has_its_modules_and_pytest_from_within(sandbox_python: Path):
    code = "import pytest, os, ssl, ctypes, sqlite3; print(pytest.__file__, os.__file__)"

    assert all(Path(p).is_relative_to(sandbox_python) for p in run(sandbox_python, code).split())


def test_libraries_come_from_within_or_are_the_c_librarys(sandbox_python: Path):
    code = (
        "import ssl, ctypes, sqlite3, lzma, bz2, zlib, uuid, curses\n"
        "print(*{l.split()[-1] for l in open('/proc/self/maps') if '.so' in l}, sep='\\n')"
    )
    c_library = ("libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.",
                 "ld-linux")  # fmt: skip
    for path in map(Path, run(sandbox_python, code).splitlines()):
        assert path.is_relative_to(sandbox_python) or path.name.startswith(c_library)


def test_tests_and_windows_are_left_out(sandbox_python: Path):
    (library,) = sandbox_python.glob("lib*/python3.*")

    assert not {"test", "idlelib", "tkinter", "ensurepip"} & {p.name for p in library.iterdir()}


def test_supervisor_can_be_run_but_not_read(sandbox_python: Path):
    supervisor = sandbox_python / "libexec" / "supervisor"

    assert supervisor.stat().st_mode & 0o777 == 0o111
    assert subprocess.run([supervisor, "-I", "-c", "pass"], check=False).returncode == 0


def fake_build(tree: Path) -> None:
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "python3").write_text("#!/bin/sh\nexit 0\n")
    (tree / "bin" / "python3").chmod(0o755)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A build that takes no time; the list grows with each."""
    built: list[Path] = []

    def build(tree: Path) -> None:
        built.append(tree)
        fake_build(tree)

    monkeypatch.setattr(python_build, "build_runtime", build)
    return built


def test_ensure_runtime_twice_builds_once(tmp_path: Path, quick: list[Path]):
    first = runtime.ensure_runtime(tmp_path)

    assert runtime.ensure_runtime(tmp_path) == first
    assert len(quick) == 1
    assert [path.name for path in first.parent.iterdir() if path.name != ".lock"] == [first.name]


async def test_ensure_runtime_at_once_builds_once(tmp_path: Path, quick: list[Path]):
    folders = await asyncio.gather(
        *(asyncio.to_thread(runtime.ensure_runtime, tmp_path) for _ in range(4))
    )

    assert len(set(folders)) == 1
    assert len(quick) == 1


def test_ensure_runtime_removes_the_remains_of_a_killed_process(tmp_path: Path, quick: list[Path]):
    stale = tmp_path / "sandbox-python" / ".unfinished-x" / "tree"
    stale.mkdir(parents=True)
    runtime.ensure_runtime(tmp_path)

    assert not stale.exists()


def test_ensure_runtime_of_a_python_that_does_not_work_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def build(tree: Path) -> None:
        fake_build(tree)
        (tree / "bin" / "python3").write_text("#!/bin/sh\necho broken >&2; exit 1\n")

    monkeypatch.setattr(python_build, "build_runtime", build)
    with pytest.raises(SetupError, match="broken"):
        runtime.ensure_runtime(tmp_path)

    assert [path.name for path in (tmp_path / "sandbox-python").iterdir()] == [".lock"]


def test_packed_python_unpacks_to_the_same_key(
    tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
):
    runtime.pack_runtime(tmp_path / runtime.ARCHIVE)
    monkeypatch.setattr(runtime, "is_frozen", lambda: True)
    monkeypatch.setattr(runtime, "resource_dir", lambda: tmp_path)

    folder = runtime.ensure_runtime(tmp_path / "data")

    assert folder.name == python_build.runtime_key()
    assert (folder / "bin" / "python3").is_file()
    assert len(quick) == 1


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_ensure_runtime_names_a_damaged_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
):
    (tmp_path / runtime.ARCHIVE).write_bytes(content)
    monkeypatch.setattr(runtime, "is_frozen", lambda: True)
    monkeypatch.setattr(runtime, "resource_dir", lambda: tmp_path)

    with pytest.raises(SetupError, match=runtime.ARCHIVE):
        runtime.ensure_runtime(tmp_path / "data")


def test_archive_with_files_at_its_top_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tarfile.open(tmp_path / runtime.ARCHIVE, "w:xz") as archive:
        archive.add(__file__, arcname="file")
    monkeypatch.setattr(runtime, "is_frozen", lambda: True)
    monkeypatch.setattr(runtime, "resource_dir", lambda: tmp_path)

    with pytest.raises(SetupError, match="unexpected content"):
        runtime.ensure_runtime(tmp_path / "data")


def test_ensure_runtime_reports_a_data_directory_that_is_a_file(tmp_path: Path, quick: list[Path]):
    (tmp_path / "data").write_text("")

    with pytest.raises(SetupError, match="data directory"):
        runtime.ensure_runtime(tmp_path / "data")
