"""Sandboxes that wait with an interpreter started: a run in one is as a run in any other."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

from appliance.domain.execution import EndReason, Limits, RunRequest, RunResult
from appliance.errors import SandboxUnavailable
from plugins._shared.stage import landlock_probe
from plugins._shared.stage.prewarm_setup import Readiness, fitting
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.pool import node_equivalence
from plugins.sandboxes.bubblewrap.pool.default_limits import usual_limits
from tests.support.sandbox import GENEROUS, files, run_python
from tests.support.sandbox_service import plugin_context
from tests.support.warm_node_programs import NODE_CASES, NODE_FILES
from tests.support.warm_programs import CASES, FILES, Case

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_WAITED = "print(b'program' + b'.pyc' in open('/proc/self/cmdline', 'rb').read())"
_NODE_WAITED = """
const line = require("fs").readFileSync("/proc/self/cmdline", "utf8");
console.log(line.includes("--require"));
"""
_OBJECT = re.compile(rb"0x[0-9a-f]+|in [0-9.]+s")


_needs_node = pytest.mark.skipif(
    shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None, reason="there is no node"
)


async def _box(python: Path, runtime_dir: str, warm: int) -> Bubblewrap:
    settings = {"warm": warm, "parallel_runs": 4}
    context = structs.replace(plugin_context(python, Path(runtime_dir)), settings=settings)
    box = Bubblewrap(context)
    status = await box.probe()
    if not status.available:
        await box.close()
        pytest.skip(f"this machine can't confine: {status.problem}. {status.remedy}")
    return box


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm(sandbox_python: Path) -> AsyncIterator[Bubblewrap]:
    with tempfile.TemporaryDirectory() as runtime_dir:
        box = await _box(sandbox_python, runtime_dir, 2)
        yield box
        await box.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cold(sandbox_python: Path) -> AsyncIterator[Bubblewrap]:
    with tempfile.TemporaryDirectory() as runtime_dir:
        box = await _box(sandbox_python, runtime_dir, 0)
        yield box
        await box.close()


async def _until_waiting(
    box: Bubblewrap, number: int = 1, kind: Readiness = Readiness.PYTHON
) -> None:
    async with asyncio.timeout(60):
        while box.waiting(kind) < number:
            await asyncio.sleep(0.01)


async def _run_warm(box: Bubblewrap, request: RunRequest) -> RunResult:
    kind = fitting(request.argv)
    if not box.waiting(kind):
        await box.run(request)  # for others than Python, it is this that has some made
    await _until_waiting(box, 1, kind)
    return await box.run(request)


def _seen(result: RunResult) -> tuple[Any, ...]:
    outputs = (_OBJECT.sub(b"#", text) for text in (result.stdout, result.stderr))
    return (result.reason, result.exit_code, result.signal, *outputs)


def _own_stages() -> list[int]:
    """The process ids of the first processes of this process's sandboxes."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while we looked
            first, *_ = (folder / "cmdline").read_bytes().split(b"\0")
            if first.endswith(b"/supervisor") and os.getpid() in _ancestors(int(folder.name)):
                found.append(int(folder.name))
    return found


def _children() -> set[int]:
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        pid = int(stat.rpartition(b")")[2].split()[1])
        found.append(pid)
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_program_in_a_waiting_interpreter_shows_what_it_shows_in_a_new_one(
    warm: Bubblewrap, cold: Bubblewrap, case: Case
):
    request = RunRequest(
        (case.program, *case.words), FILES, stdin=case.stdin, env=case.env, limits=GENEROUS
    )

    assert _seen(await _run_warm(warm, request)) == _seen(await cold.run(request))


@_needs_node
@pytest.mark.parametrize("case", NODE_CASES.values(), ids=NODE_CASES)
async def test_program_in_a_waiting_node_shows_what_it_shows_in_a_new_one(
    warm: Bubblewrap, cold: Bubblewrap, case: Case
):
    request = RunRequest(
        ("node", *case.words), NODE_FILES, stdin=case.stdin, env=case.env, limits=GENEROUS
    )

    assert _seen(await _run_warm(warm, request)) == _seen(await cold.run(request))


@_needs_node
@pytest.mark.parametrize(
    ("words", "waited"), [(("waited.js",), True), (("-e", "require('./waited')"), False)]
)
async def test_node_with_a_sandbox_waiting_goes_on_in_it_where_it_can(
    warm: Bubblewrap, words: tuple[str, ...], waited: bool
):
    request = RunRequest(("node", *words), files(waited__js=_NODE_WAITED), limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == f"{str(waited).lower()}\n".encode()


@_needs_node
async def test_node_that_waits_and_differs_from_a_new_one_is_not_used(
    sandbox_python: Path, monkeypatch: pytest.MonkeyPatch
):
    async def differ(*_: object) -> bool:
        return False

    monkeypatch.setattr(node_equivalence, "alike", differ)
    request = RunRequest(("node", "waited.js"), files(waited__js=_NODE_WAITED), limits=GENEROUS)
    with tempfile.TemporaryDirectory() as runtime_dir:
        box = await _box(sandbox_python, runtime_dir, 1)
        await box.run(request)
        await _until_waiting(box, 1, Readiness.NODE)

        assert (await box.run(request)).stdout == b"false\n"
        assert (await box.run(request)).stdout == b"false\n"
        await box.close()


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (
            ("sh", "-c", "echo $0 $* $A; pwd; umask; ls -A . /tmp /proc/self/fd; ps", "a", "b c"),
            b"",
        ),
        (("bash", "-c", "cat; ulimit -a; echo $$ $PPID; trap; set -o; exit 3"), b"some input"),
        (("cat", "/proc/self/limits", "/proc/self/cmdline", "/proc/self/environ"), b""),
        (("nothing-of-this-name",), b""),
        (("/workspace",), b""),
        (("sh", "-c", "kill -9 $$"), b""),
        (("env",), b""),
    ],
)
async def test_other_programs_show_in_a_sandbox_that_waited_what_they_show_in_a_new_one(
    warm: Bubblewrap, cold: Bubblewrap, argv: tuple[str, ...], stdin: bytes
):
    request = RunRequest(argv, files(x="y"), stdin=stdin, env={"A": "ä", "PATH": "/usr/bin:/bin"})

    assert _seen(await _run_warm(warm, request)) == _seen(await cold.run(request))


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (("python", "waited.py"), b""),
        (("python3", "-m", "waited"), b""),
        (("python", "-c", _WAITED), b""),
        (("python", "-"), _WAITED.encode()),
    ],
)
async def test_python_with_a_sandbox_waiting_goes_on_in_its_interpreter(
    warm: Bubblewrap, argv: tuple[str, ...], stdin: bytes
):
    request = RunRequest(argv, files(waited__py=_WAITED), stdin=stdin, limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == b"True\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("python", "-B", "-c", _WAITED),
        ("sh", "-c", f'python -c "{_WAITED}"'),
        ("/opt/python/bin/python", "-c", _WAITED),
    ],
)
async def test_other_programs_with_a_sandbox_waiting_are_started_anew_in_it(
    warm: Bubblewrap, argv: tuple[str, ...]
):
    assert (await _run_warm(warm, RunRequest(argv, limits=GENEROUS))).stdout == b"False\n"


_ROOMS = """
import os
def room(path):
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_files
print(room("/workspace"), room("/tmp"), room("/dev/shm"))
"""


async def test_run_with_other_limits_has_them_also_where_a_sandbox_waited(
    warm: Bubblewrap, cold: Bubblewrap
):
    limits = Limits(
        wall_s=60.0,
        cpu_s=30.0,
        memory_bytes=200 << 20,
        workspace_bytes=8 << 20,
        workspace_files=100,
        tmp_bytes=4 << 20,
    )
    request = RunRequest(("python", "-c", _ROOMS), limits=limits)

    first, other = await _run_warm(warm, request), await cold.run(request)

    assert first.stdout == other.stdout
    assert first.ok, first


async def test_run_that_needs_more_memory_than_usual_gets_it_where_a_sandbox_waited(
    warm: Bubblewrap,
):
    code = "print(len(bytearray(300 << 20)))"
    limits = structs.replace(GENEROUS, memory_bytes=500 << 20)

    enough = await _run_warm(warm, RunRequest(("python", "-c", code), limits=limits))
    too_little = await _run_warm(warm, RunRequest(("python", "-c", code), limits=GENEROUS))

    assert enough.stdout == b"%d\n" % (300 << 20)
    assert not too_little.ok


async def test_two_runs_share_neither_files_nor_hash_seed_nor_addresses(warm: Bubblewrap):
    code = f"{_WAITED}; import os; print(hash('x'), id(object)); print(os.listdir('/tmp'))\n"
    code += "open('/tmp/left', 'w'); open('left', 'w'); print(os.listdir())"
    request = RunRequest(("python", "-c", code), limits=GENEROUS)

    first, second = [(await _run_warm(warm, request)).stdout.split(b"\n") for _ in range(2)]

    assert first[0] == second[0] == b"True"
    assert first[1] != second[1]
    assert first[2:] == second[2:] == [b"[]", b"['left']", b""]


async def test_processor_time_of_a_waiting_interpreter_is_not_the_runs(warm: Bubblewrap):
    used = await _run_warm(warm, RunRequest(("python", "-c", "pass"), limits=GENEROUS))
    request = RunRequest(("python", "-c", f"{_WAITED}\nwhile 1: pass"), limits=Limits(60.0, 0.5))

    ended = await _run_warm(warm, request)

    assert 0 <= used.usage.cpu_s < 1
    assert ended.reason is EndReason.CPU_TIME
    assert ended.usage.cpu_s >= 0.5


async def test_artifacts_of_a_waiting_sandbox_come_back(warm: Bubblewrap):
    code = "open('made.txt', 'w').write('x' * 3)"
    request = RunRequest(("python", "-c", code), artifacts=("*",), limits=GENEROUS)

    result = await _run_warm(warm, request)

    assert [(file.path, file.content) for file in result.artifacts] == [("made.txt", b"xxx")]


async def test_program_of_a_waiting_sandbox_is_under_landlock_as_any(
    warm: Bubblewrap, cold: Bubblewrap
):
    request = RunRequest(("python", "-c", landlock_probe.PROGRAM), limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == (await cold.run(request)).stdout


async def test_more_runs_at_once_than_sandboxes_wait_all_get_their_own(warm: Bubblewrap):
    results = await asyncio.gather(*(run_python(warm, f"print({n})") for n in range(5)))

    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(5)]


async def test_waiting_sandbox_that_was_killed_is_replaced(warm: Bubblewrap):
    await _until_waiting(warm, 2)
    stages = _own_stages()
    assert len(stages) >= 2  # those of other boxes that this process holds open, too

    for pid in stages:
        os.kill(pid, signal.SIGKILL)

    assert (await run_python(warm, "print(1)")).stdout == b"1\n"
    async with asyncio.timeout(60):
        while warm.waiting() < 2 or set(_own_stages()) & set(stages):
            await asyncio.sleep(0.01)


async def test_cancelled_run_in_a_waiting_sandbox_ends_it(warm: Bubblewrap):
    await _until_waiting(warm)
    run = asyncio.create_task(run_python(warm, "import time; time.sleep(60)"))
    await asyncio.sleep(0.05)

    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await _run_warm(warm, RunRequest(("python", "-c", "print(2)")))).ok


async def test_close_with_sandboxes_waiting_leaves_none(warm: Bubblewrap, sandbox_python: Path):
    await _until_waiting(warm, 2)
    with tempfile.TemporaryDirectory() as runtime_dir:
        others = _children()
        box = await _box(sandbox_python, runtime_dir, 1)
        await _until_waiting(box)
        (launcher,) = _children() - others
        waiting = [pid for pid in _own_stages() if launcher in _ancestors(pid)]
        assert waiting

        await box.close()

        assert not set(waiting) & set(_own_stages())
        with pytest.raises(SandboxUnavailable):
            await run_python(box, "print(1)")


async def test_usual_limits_are_those_of_the_settings():
    settings = {"memory_mib": 2, "tmp_mib": 3, "workspace_mib": 4, "processes": 5, "cpus": 0.5}

    limits = usual_limits(settings | {"workspace_files": 6})

    assert (limits.memory_bytes, limits.tmp_bytes, limits.workspace_bytes) == (
        2 << 20,
        3 << 20,
        4 << 20,
    )
    assert (limits.processes, limits.cpus, limits.workspace_files) == (5, 0.5, 6)
    assert usual_limits({}) == Limits()
