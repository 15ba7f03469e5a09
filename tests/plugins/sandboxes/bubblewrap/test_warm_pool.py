"""Prewarmed sandboxes: a program in one prints what it prints in a fresh one."""

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
from plugins._shared.stage.prewarm_setup import PrewarmKind, prewarm_kind_for
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.pool import warm_pool
from plugins.sandboxes.bubblewrap.pool.warm_pool import default_limits
from tests.support.polling import until
from tests.support.sandbox import GENEROUS, RecordingWatcher, files, run_python
from tests.support.sandbox_service import plugin_context
from tests.support.sandbox_sessions import SessionHarness, pieces
from tests.support.warm_node_programs import NODE_CASES, NODE_FILES
from tests.support.warm_programs import CASES, FILES, Case

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_IS_PREWARMED = "print(b'program' + b'.pyc' in open('/proc/self/cmdline', 'rb').read())"
_NODE_IS_PREWARMED = """
const line = require("fs").readFileSync("/proc/self/cmdline", "utf8");
console.log(line.includes("--require"));
"""
_OBJECT = re.compile(rb"0x[0-9a-f]+|in [0-9.]+s")


_needs_node = pytest.mark.skipif(
    shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None,
    reason="needs node: not on this machine",
)


async def _open_backend(python: Path, runtime_dir: str, warm: int) -> Bubblewrap:
    settings = {"warm": warm, "parallel_runs": 4}
    context = structs.replace(plugin_context(python, Path(runtime_dir)), settings=settings)
    backend = Bubblewrap(context)
    status = await backend.probe()
    if not status.available:
        await backend.close()
        pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")
    return backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm(sandbox_python: Path) -> AsyncIterator[Bubblewrap]:
    with tempfile.TemporaryDirectory() as runtime_dir:
        backend = await _open_backend(sandbox_python, runtime_dir, 2)
        yield backend
        await backend.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cold(sandbox_python: Path) -> AsyncIterator[Bubblewrap]:
    with tempfile.TemporaryDirectory() as runtime_dir:
        backend = await _open_backend(sandbox_python, runtime_dir, 0)
        yield backend
        await backend.close()


async def _wait_for_idle(
    backend: Bubblewrap, number: int = 1, kind: PrewarmKind = PrewarmKind.PYTHON
) -> None:
    await until(lambda: backend.count_idle(kind) >= number)


async def _run_warm(backend: Bubblewrap, request: RunRequest) -> RunResult:
    kind = prewarm_kind_for(request.argv)
    if not backend.count_idle(kind):
        await backend.run(request)  # creates demand for kinds other than Python
    await _wait_for_idle(backend, 1, kind)
    return await backend.run(request)


def _observable(result: RunResult) -> tuple[Any, ...]:
    outputs = (_OBJECT.sub(b"#", text) for text in (result.stdout, result.stderr))
    return (result.reason, result.exit_code, result.signal, *outputs)


def _own_init_processes() -> list[int]:
    """Process ids of the init processes of this process's sandboxes."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended
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
async def test_program_when_python_is_prewarmed_then_prints_what_a_fresh_one_prints(
    warm: Bubblewrap, cold: Bubblewrap, case: Case
):
    request = RunRequest(
        (case.program, *case.words), FILES, stdin=case.stdin, env=case.env, limits=GENEROUS
    )

    assert _observable(await _run_warm(warm, request)) == _observable(await cold.run(request))


@_needs_node
@pytest.mark.parametrize("case", NODE_CASES.values(), ids=NODE_CASES)
async def test_program_when_node_is_prewarmed_then_prints_what_a_fresh_one_prints(
    warm: Bubblewrap, cold: Bubblewrap, case: Case
):
    request = RunRequest(
        ("node", *case.words), NODE_FILES, stdin=case.stdin, env=case.env, limits=GENEROUS
    )

    assert _observable(await _run_warm(warm, request)) == _observable(await cold.run(request))


@_needs_node
@pytest.mark.parametrize(
    ("words", "waited"), [(("waited.js",), True), (("-e", "require('./waited')"), False)]
)
async def test_node_when_prewarmed_then_runs_scripts_but_not_options(
    warm: Bubblewrap, words: tuple[str, ...], waited: bool
):
    request = RunRequest(("node", *words), files(waited__js=_NODE_IS_PREWARMED), limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == f"{str(waited).lower()}\n".encode()


@_needs_node
async def test_node_when_prewarmed_differs_from_fresh_then_it_is_not_used(
    sandbox_python: Path, monkeypatch: pytest.MonkeyPatch
):
    async def differ(*_: object) -> bool:
        return False

    monkeypatch.setattr(warm_pool, "behaves_like_fresh", differ)
    request = RunRequest(
        ("node", "waited.js"), files(waited__js=_NODE_IS_PREWARMED), limits=GENEROUS
    )
    with tempfile.TemporaryDirectory() as runtime_dir:
        backend = await _open_backend(sandbox_python, runtime_dir, 1)
        await backend.run(request)
        await _wait_for_idle(backend, 1, PrewarmKind.NODE)

        assert (await backend.run(request)).stdout == b"false\n"
        assert (await backend.run(request)).stdout == b"false\n"
        await backend.close()


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
async def test_other_programs_when_prewarmed_then_print_what_they_print_when_fresh(
    warm: Bubblewrap, cold: Bubblewrap, argv: tuple[str, ...], stdin: bytes
):
    request = RunRequest(argv, files(x="y"), stdin=stdin, env={"A": "ä", "PATH": "/usr/bin:/bin"})

    assert _observable(await _run_warm(warm, request)) == _observable(await cold.run(request))


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (("python", "waited.py"), b""),
        (("python3", "-m", "waited"), b""),
        (("python", "-c", _IS_PREWARMED), b""),
        (("python", "-"), _IS_PREWARMED.encode()),
    ],
)
async def test_python_when_prewarmed_then_runs_in_that_interpreter(
    warm: Bubblewrap, argv: tuple[str, ...], stdin: bytes
):
    request = RunRequest(argv, files(waited__py=_IS_PREWARMED), stdin=stdin, limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == b"True\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("python", "-B", "-c", _IS_PREWARMED),
        ("sh", "-c", f'python -c "{_IS_PREWARMED}"'),
        ("/opt/python/bin/python", "-c", _IS_PREWARMED),
    ],
)
async def test_program_when_the_prewarmed_interpreter_does_not_fit_then_a_new_one_is_started(
    warm: Bubblewrap, argv: tuple[str, ...]
):
    assert (await _run_warm(warm, RunRequest(argv, limits=GENEROUS))).stdout == b"False\n"


_TMPFS_SIZES = """
import os
def size(path):
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize, stat.f_files
print(size("/workspace"), size("/tmp"), size("/dev/shm"))
"""


async def test_run_when_limits_differ_from_the_prewarmed_ones_then_they_are_changed(
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
    request = RunRequest(("python", "-c", _TMPFS_SIZES), limits=limits)

    prewarmed, fresh = await _run_warm(warm, request), await cold.run(request)

    assert prewarmed.stdout == fresh.stdout
    assert prewarmed.ok, prewarmed


async def test_run_when_it_needs_more_than_the_default_memory_then_the_prewarmed_sandbox_gives_it(
    warm: Bubblewrap,
):
    code = "print(len(bytearray(300 << 20)))"
    limits = structs.replace(GENEROUS, memory_bytes=500 << 20)

    enough = await _run_warm(warm, RunRequest(("python", "-c", code), limits=limits))
    too_little = await _run_warm(warm, RunRequest(("python", "-c", code), limits=GENEROUS))

    assert enough.stdout == b"%d\n" % (300 << 20)
    assert not too_little.ok


async def test_two_runs_share_neither_files_nor_hash_seed_nor_addresses(warm: Bubblewrap):
    code = f"{_IS_PREWARMED}; import os; print(hash('x'), id(object)); print(os.listdir('/tmp'))\n"
    code += "open('/tmp/left', 'w'); open('left', 'w'); print(os.listdir())"
    request = RunRequest(("python", "-c", code), limits=GENEROUS)

    first, second = [(await _run_warm(warm, request)).stdout.split(b"\n") for _ in range(2)]

    assert first[0] == second[0] == b"True"
    assert first[1] != second[1]
    assert first[2:] == second[2:] == [b"[]", b"['left']", b""]


async def test_cpu_time_when_prewarmed_then_time_before_the_run_is_not_counted(warm: Bubblewrap):
    used = await _run_warm(warm, RunRequest(("python", "-c", "pass"), limits=GENEROUS))
    request = RunRequest(
        ("python", "-c", f"{_IS_PREWARMED}\nwhile 1: pass"), limits=Limits(60.0, 0.5)
    )

    ended = await _run_warm(warm, request)

    assert 0 <= used.usage.cpu_s < 1
    assert ended.reason is EndReason.CPU_TIME
    assert ended.usage.cpu_s >= 0.5


async def test_artifacts_when_prewarmed_then_returned(warm: Bubblewrap):
    code = "open('made.txt', 'w').write('x' * 3)"
    request = RunRequest(("python", "-c", code), artifacts=("*",), limits=GENEROUS)

    result = await _run_warm(warm, request)

    assert [(file.path, file.content) for file in result.artifacts] == [("made.txt", b"xxx")]


async def test_program_when_prewarmed_then_landlock_confines_it(warm: Bubblewrap, cold: Bubblewrap):
    request = RunRequest(("python", "-c", landlock_probe.PROGRAM), limits=GENEROUS)

    assert (await _run_warm(warm, request)).stdout == (await cold.run(request)).stdout


async def test_runs_when_more_than_idle_sandboxes_then_each_gets_its_own(warm: Bubblewrap):
    results = await asyncio.gather(*(run_python(warm, f"print({n})") for n in range(5)))

    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(5)]


async def test_idle_sandbox_when_killed_then_replaced(warm: Bubblewrap):
    await _wait_for_idle(warm, 2)
    pids = _own_init_processes()
    assert len(pids) >= 2  # those of other backends in this process, too, which may just end

    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    assert (await run_python(warm, "print(1)")).stdout == b"1\n"
    await until(lambda: not set(_own_init_processes()) & set(pids))
    await _wait_for_idle(warm, 2)


async def test_run_when_cancelled_in_a_prewarmed_sandbox_then_that_ends(warm: Bubblewrap):
    await _wait_for_idle(warm)
    watcher = RecordingWatcher()
    code = "import time; print('started', flush=True); time.sleep(60)"
    request = RunRequest(("python", "-c", code), limits=GENEROUS)
    run = asyncio.create_task(warm.run_watched(request, watcher))
    await until(lambda: len(watcher.events) > 1)

    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await _run_warm(warm, RunRequest(("python", "-c", "print(2)")))).ok


async def test_close_when_sandboxes_are_idle_then_none_is_left(
    warm: Bubblewrap, sandbox_python: Path
):
    await _wait_for_idle(warm, 2)
    with tempfile.TemporaryDirectory() as runtime_dir:
        others = _children()
        backend = await _open_backend(sandbox_python, runtime_dir, 1)
        await _wait_for_idle(backend)
        (launcher,) = _children() - others
        idle = [pid for pid in _own_init_processes() if launcher in _ancestors(pid)]
        assert idle

        await backend.close()

        assert not set(idle) & set(_own_init_processes())
        with pytest.raises(SandboxUnavailable):
            await run_python(backend, "print(1)")


async def test_default_limits_when_set_then_those_of_the_settings():
    settings = {"memory_mib": 2, "tmp_mib": 3, "workspace_mib": 4, "processes": 5, "cpus": 0.5}

    limits = default_limits(settings | {"workspace_files": 6})

    assert (limits.memory_bytes, limits.tmp_bytes, limits.workspace_bytes) == (
        2 << 20,
        3 << 20,
        4 << 20,
    )
    assert (limits.processes, limits.cpus, limits.workspace_files) == (5, 0.5, 6)
    assert default_limits({}) == Limits()


async def test_session_when_a_prewarmed_sandbox_is_idle_then_it_serves_the_run(
    warm: Bubblewrap, tmp_path: Path
) -> None:
    harness = SessionHarness(warm, tmp_path / "sessions")
    session = harness.open(max_bytes=64 << 20, max_files=4096)
    for text in (b"one", b"two"):
        await session.put("file", pieces(text))
        await _wait_for_idle(warm)

        program = "-c", _IS_PREWARMED + "\nprint(open('file').read())"
        result = await harness.exec(session, "python", *program)

        assert result.stdout == b"True\n%b\n" % text
        assert result.workspace is not None
        assert result.workspace.saved
