"""Runs that see a root file system instead of the host's own."""

import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import BackendStatus, RunRequest
from appliance.domain.rootfs import RootfsRecord
from appliance.errors import SandboxUnavailable, SetupError
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits
from appliance.sandbox.runner import SandboxRunner
from plugins._shared.rootfs import selection, system_mounts
from plugins._shared.rootfs.python import choose_interpreter
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.launcher.mounts import MAX_SLOTS
from tests.support.rootfs import (
    MIB,
    copy_libraries_of_python,
    ignore_progress,
    make_root,
    open_store,
)
from tests.support.sandbox import GENEROUS, run_python
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

PROGRAMS = ("sh", "bash", "cat", "ls", "id", "readlink", "head", "mkdir")


def add(folder: Path, data: Path, name: str) -> RootfsRecord:
    return open_store(data, ArchiveLimits(512 * MIB, 50_000)).add(folder, name, "", ignore_progress)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, sandbox_python: Path) -> Path:
    """A data directory with `tiny`, in which the bundled Python runs."""
    folder = make_root(tmp_path_factory.mktemp("root") / "tiny", PROGRAMS)
    copy_libraries_of_python(sandbox_python, folder)
    home = tmp_path_factory.mktemp("data")
    add(folder, home, "tiny")
    return home


@asynccontextmanager
async def open_backend(
    data: Path, python: Callable[[], Path], name: str = "tiny"
) -> AsyncGenerator[tuple[Bubblewrap, BackendStatus], None]:
    with tempfile.TemporaryDirectory() as runtime_dir:
        context = structs.replace(
            plugin_context(Path("/nonexistent"), Path(runtime_dir)),
            settings={"rootfs": name},
            data_dir=data,
            sandbox_python=python,
        )
        backend = Bubblewrap(context)
        try:
            yield backend, await backend.probe()
        finally:
            await backend.close()


def usable(status: BackendStatus) -> None:
    if not status.available:
        pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")


async def output_of(backend: Bubblewrap, script: str) -> str:
    result = await backend.run(RunRequest(("sh", "-c", script), limits=GENEROUS))
    assert result.ok, result
    return result.stdout.decode(errors="replace")


async def test_run_when_a_root_is_chosen_then_sees_it_and_nothing_of_the_hosts(
    data: Path, sandbox_python: Path
) -> None:
    async with open_backend(data, lambda: sandbox_python) as (backend, status):
        usable(status)
        assert (
            await output_of(backend, "cat /usr/share/word /usr/absolute") == "from the root\n" * 2
        )
        names = (await output_of(backend, "ls /usr/bin /usr/share")).split()
        assert {"words", "word"} <= set(names)
        assert not {"env", "perl", "bash", "doc"} & set(names)
        result = await run_python(backend, "import sys; print(sys.executable)")
        assert result.stdout == b"/opt/python/bin/python\n"
        wrote = await run_python(backend, "open('/usr/share/word', 'w')")
        assert b"Read-only file system" in wrote.stderr or b"Permission denied" in wrote.stderr
        assert status.isolation is not None
        assert "read_only_system" in status.isolation.layers


async def test_languages_when_a_root_is_chosen_then_they_are_the_roots(
    data: Path, sandbox_python: Path
) -> None:
    async with open_backend(data, lambda: sandbox_python) as (backend, status):
        usable(status)
        runner = SandboxRunner({"bubblewrap": backend}, SandboxSettings(wall_s=30.0))
        await runner.start()
        await runner.wait_for_languages()
        assert set(runner.status.languages) == {"python", "sh", "bash"}
        await runner.close()


async def test_run_when_the_root_was_removed_then_unavailable_each_time_and_no_slot_leaks(
    data: Path, sandbox_python: Path
) -> None:
    roots = open_store(data, ArchiveLimits(512 * MIB, 50_000))
    folder = data / "sandbox-rootfs" / "tiny" / "tree"
    roots.add(folder, "brief", "", ignore_progress)
    async with open_backend(data, lambda: sandbox_python, "brief") as (backend, status):
        usable(status)
        roots.remove("brief")
        for _ in range(MAX_SLOTS + 1):
            with pytest.raises(SandboxUnavailable, match="was not removed"):
                await output_of(backend, "cat /usr/share/word")


# The root's own Python


@pytest.fixture(scope="module")
def own_python(tmp_path_factory: pytest.TempPathFactory, sandbox_python: Path) -> Path:
    """A data directory with `whole`, which has a Python of its own."""
    folder = make_root(tmp_path_factory.mktemp("root") / "whole", PROGRAMS)
    local = folder / "usr" / "local"
    left_out = shutil.ignore_patterns("site-packages", "libexec", "pytest", "__pycache__")
    shutil.copytree(sandbox_python, local, symlinks=True, ignore=left_out)
    [versioned] = local.glob("bin/python3.*")
    versioned.unlink()
    (local / "bin" / "python3").rename(versioned)
    (local / "bin" / "python3").symlink_to(versioned.name)
    copy_libraries_of_python(local, folder)
    home = tmp_path_factory.mktemp("data")
    add(folder, home, "whole")
    return home


def no_python() -> Path:
    raise SetupError("this installation has no Python for its sandbox")


async def test_run_when_there_is_no_bundled_python_then_that_of_the_root(own_python: Path) -> None:
    async with open_backend(own_python, no_python, "whole") as (backend, status):
        if "no Python for its sandbox" in status.problem:
            pytest.fail(status.problem)
        usable(status)
        result = await run_python(backend, "import sys, json; print(sys.prefix)")
        assert result.stdout == b"/usr/local\n", result
        assert (await output_of(backend, "python3 -c 'print(7)'; python -c 'print(8)'")) == "7\n8\n"
        assert status.isolation is not None
        # The run can read the Python of the init process, so that layer is not reported.
        assert "hidden_supervisor" not in status.isolation.layers


async def test_probe_when_there_is_no_python_at_all_then_a_problem(
    data: Path,
) -> None:
    async with open_backend(data, no_python) as (_, status):
        assert not status.available
        assert "no Python for its sandbox" in status.problem


async def test_probe_when_the_root_is_not_there_then_the_remedy(
    data: Path, sandbox_python: Path
) -> None:
    async with open_backend(data, lambda: sandbox_python, "missing") as (_, status):
        assert not status.available
        assert "'missing'" in status.problem
        assert "rootfs list" in status.remedy


@pytest.mark.parametrize(
    ("glibc", "python", "serves"),
    [
        ("2.1", "", None), ("", "", None), ("2.1", "/usr/bin/python3.2", None),
        ("", "/usr/bin/python{}.{}", "root"), ("2.1", "/usr/bin/python{}.{}", "root"),
        ("99.0", "", "bundled"), ("99.0", "/usr/bin/python{}.{}", "bundled"),
    ],
)  # fmt: skip
def test_interpreter_when_the_roots_library_is_old_or_other_then_the_roots_python_or_none(
    sandbox_python: Path, glibc: str, python: str, serves: str | None
) -> None:
    own = python.format(*sys.version_info[:2])
    root = selection.RootFilesystem("r", Path("/r"), None, "", own, glibc)
    if serves is None:
        with pytest.raises(SandboxUnavailable, match="no Python runs") as caught:
            choose_interpreter(root, lambda: sandbox_python)
        assert caught.value.details["remedy"].startswith("use a root with Python")
        return
    found = choose_interpreter(root, lambda: sandbox_python)
    assert found.bundled == (sandbox_python if serves == "bundled" else None)
    assert serves == "bundled" or found.program == own


def test_interpreter_when_no_root_is_chosen_then_the_bundled_one_or_its_error(
    sandbox_python: Path,
) -> None:
    assert choose_interpreter(None, lambda: sandbox_python).bundled == sandbox_python
    with pytest.raises(SetupError):
        choose_interpreter(None, no_python)


# Malicious roots


async def test_run_when_the_root_is_full_of_links_then_none_is_followed_on_the_host(
    tmp_path: Path, sandbox_python: Path
) -> None:
    secret = tmp_path / "secret"
    (secret / "alternatives").mkdir(parents=True)
    for name in ("word", "ld.so.cache", "alternatives/word"):
        (secret / name).write_text("SECRET")
    folder = make_root(tmp_path / "links", PROGRAMS)
    copy_libraries_of_python(sandbox_python, folder)
    shutil.rmtree(folder / "etc")
    (folder / "etc").symlink_to(secret)
    (folder / "opt").symlink_to(secret)
    (folder / "sbin").symlink_to(secret)
    (folder / "app").symlink_to(secret)
    (folder / "usr" / "stolen").symlink_to(secret)
    add(folder, tmp_path / "data", "links")
    async with open_backend(tmp_path / "data", lambda: sandbox_python, "links") as (
        backend,
        status,
    ):
        usable(status)
        script = f"cat /etc/* /etc/*/* /opt/* /sbin/* /app/* /usr/stolen/* {secret}/*; true"
        assert "SECRET" not in await output_of(backend, script)


def test_system_when_etc_holds_links_then_they_are_not_bound(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", ["sh"])
    secret = tmp_path / "secret"
    secret.mkdir()
    (root / "etc" / "ld.so.cache").symlink_to("/etc/shadow")
    (root / "etc" / "alternatives").symlink_to(secret)
    (root / "etc" / "java-9-openjdk").symlink_to(secret)
    (root / "etc" / "java-17-openjdk").mkdir()
    (root / "opt" / "tool").mkdir(parents=True)
    (root / "opt" / "python").mkdir()
    (root / "nix").mkdir()
    (root / "home").mkdir()
    assert system_mounts.etc_config_names(root) == ("java-17-openjdk",)
    words = system_mounts.system_mount_options(
        root, tmp_path / "etc", system_mounts.etc_config_names(root)
    )
    assert "/etc/ld.so.cache" not in words
    assert "/etc/alternatives" not in words
    assert words[-3:] == [
        "--ro-bind-try", str(root / "etc" / "java-17-openjdk"), "/etc/java-17-openjdk",
    ]  # fmt: skip
    targets = set(words[2::3])
    assert {"/usr", "/bin", "/lib", "/nix", "/opt/tool", "/etc"} <= targets
    assert not {"/opt/python", "/home", "/tmp", "/opt"} & targets
    assert str(secret) not in " ".join(words)


def test_system_when_no_root_is_chosen_then_the_hosts_folders(tmp_path: Path) -> None:
    words = system_mounts.system_mount_options(None, tmp_path, ())
    at = words.index("/usr")
    assert words[at - 1 : at + 2] == ["--ro-bind", "/usr", "/usr"]
    assert words[-3:] == ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]


def test_record_when_malformed_then_an_error(data: Path) -> None:
    record = data / "sandbox-rootfs" / "tiny" / "record.json"
    good = record.read_bytes()
    for bad in (b"", b"[]", b"{}", good[:-1], good.replace(b'"files":', b'"files":"x",')):
        record.write_bytes(bad)
        with pytest.raises(SandboxUnavailable, match="can't be read"):
            selection.find_root(data / "sandbox-rootfs", "tiny")
    record.write_bytes(good)
    assert msgspec.json.decode(good, type=RootfsRecord).name == "tiny"
