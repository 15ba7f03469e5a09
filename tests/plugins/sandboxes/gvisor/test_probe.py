"""What the gVisor backend answers on a machine where it can't work; needs no runsc."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from appliance.domain.execution import BackendStatus, RunRequest
from appliance.errors import SandboxUnavailable
from plugins.sandboxes.gvisor import probe
from plugins.sandboxes.gvisor import runsc as program
from tests.support.gvisor import entry_names, gvisor
from tests.support.sandbox import find_host_processes

pytest_plugins = ["tests.support.sandbox_fixtures"]

_FAKE_RUNSC = """#!/bin/sh
case "$1" in
--version) echo "runsc version made-up" ;;
flags) echo "specifies which platform to use: systrap (default), ptrace" ;;
*) {run} ;;
esac
"""


def _write(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


async def _status(
    python: Path, folder: Path, runsc: Path | str, trial_s: float = 30.0
) -> BackendStatus:
    backend = gvisor(python, folder / "run", runsc, trial_s)
    try:
        return await backend.probe()
    finally:
        await backend.close()


async def test_probe_without_runsc_says_how_to_install_it(sandbox_python: Path, tmp_path: Path):
    status = await _status(sandbox_python, tmp_path, tmp_path / "none")

    assert not status.available
    assert "there is no program" in status.problem
    assert "install the package runsc" in status.remedy
    assert not (tmp_path / "run").exists()


async def test_probe_without_runsc_in_the_usual_places_costs_nothing(
    sandbox_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(program, "_PATHS", (str(tmp_path / "runsc"),))

    status = await _status(sandbox_python, tmp_path, "")

    assert status.problem == "the program runsc is missing"
    assert not entry_names(tmp_path)


async def test_run_without_runsc_is_refused_with_the_reason(sandbox_python: Path, tmp_path: Path):
    backend = gvisor(sandbox_python, tmp_path / "run", tmp_path / "none")

    with pytest.raises(SandboxUnavailable, match="there is no program"):
        await backend.run(RunRequest(("true",)))
    await backend.close()


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        ("#!/bin/sh\n", 0o644, "is not executable"),
        ("#!/bin/sh\n", 0o4755, "setuid"),
        ("#!/bin/sh\n", 0o777, "can be modified by users other"),
        ("#!/bin/sh\necho bwrap 0.8\n", 0o755, "is not runsc"),
        ("#!/bin/sh\nexec cat /dev/zero\n", 0o755, "is not runsc"),
        ("neither script nor program", 0o755, "can't be started"),
        (_FAKE_RUNSC.format(run="echo no such thing >&2; exit 1"), 0o755, "no such thing"),
        (_FAKE_RUNSC.format(run="exec cat /dev/zero"), 0o755, "runs nothing here"),
        (_FAKE_RUNSC.format(run="exec cat /dev/zero >&2"), 0o755, "runs nothing here"),
        (_FAKE_RUNSC.format(run="printf 'O\\0\\0\\0\\1x'"), 0o755, "runs nothing here"),
    ],
)
async def test_probe_of_a_program_that_is_not_runsc_says_what_is_wrong(
    sandbox_python: Path, tmp_path: Path, text: str, mode: int, problem: str
):
    status = await _status(sandbox_python, tmp_path, _write(tmp_path / "runsc", text, mode))

    assert not status.available
    assert problem in status.problem
    assert status.remedy


async def test_setting_that_is_a_relative_path_is_refused(sandbox_python: Path, tmp_path: Path):
    status = await _status(sandbox_python, tmp_path, "runsc")

    assert status.remedy == "set the absolute path of runsc"


async def test_runsc_that_does_not_answer_is_killed(tmp_path: Path):
    silent = _write(tmp_path / "runsc", "#!/bin/sh\nexec sleep 600\n")
    start = time.monotonic()

    with pytest.raises(SandboxUnavailable, match="does not answer"):
        await asyncio.to_thread(program.locate_runsc, str(silent), {}, 0.2)

    assert time.monotonic() - start < 60


@pytest.fixture
async def mark(tmp_path: Path) -> AsyncIterator[str]:
    name = f"{tmp_path.name}-hanging"
    yield name
    assert not find_host_processes(name)


async def test_runsc_that_starts_nothing_is_killed_and_leaves_nothing(
    sandbox_python: Path, tmp_path: Path, mark: str
):
    script = _FAKE_RUNSC.format(run=f": {mark}; (sleep 600 & sleep 600)")
    runsc = _write(tmp_path / f"{mark}-runsc", script)

    status = await _status(sandbox_python, tmp_path, runsc, trial_s=1.0)

    assert "started nothing in time" in status.problem
    assert not entry_names(tmp_path / "run")


_NAMES = {"bin", "proc", "usr"}
_FACTS = probe.Facts(
    python="3.11.1",
    kernel="4.19.0-gvisor #1 SMP",
    seccomp=2,
    user=[1000] * 6,
    capabilities=0,
    processes=[1, 2],
    interfaces=["lo"],
    root=["bin", "proc", "usr"],
    writable=[],
    supervisor_hidden=True,
    descriptors=[0, 1, 2, 3],
    files=4097,
)


@pytest.mark.parametrize(
    ("fact", "value", "hole"),
    [
        ("kernel", "6.1.0 #1 SMP Debian", "not gVisor's"),
        ("seccomp", 0, "filter"),
        ("user", [0] * 6, "runs as"),
        ("capabilities", 1 << 21, "capabilities"),
        ("processes", list(range(1, 90)), "processes"),
        ("interfaces", ["lo", "eth0"], "network"),
        ("root", ["bin", "home", "root"], "home"),
        ("writable", ["/usr/x"], "/usr/x"),
        ("supervisor_hidden", False, "init process"),
        ("descriptors", [0, 1, 2, 3, 9], "descriptors"),
    ],
)
def test_sandbox_with_a_hole_is_not_offered(fact: str, value: object, hole: str):
    holes = probe.find_holes(structs.replace(_FACTS, **{fact: value}), _NAMES)

    assert len(holes) == 1
    assert hole in holes[0]


def test_sandbox_as_it_must_be_has_no_hole():
    assert probe.find_holes(_FACTS, _NAMES) == []
