"""Runs in the real gVisor: what a program sees, its limits, and that nothing remains."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import (
    EndReason,
    IsolationLevel,
    Limits,
    OutputStream,
    RunRequest,
    SandboxFile,
)
from appliance.sandbox.runner import SandboxRunner
from appliance.spi.sandbox import WatchableBackend
from plugins.sandboxes.gvisor.backend import GVisor
from tests.support.gvisor import entry_names, gvisor, runsc
from tests.support.polling import until
from tests.support.rootfs import copy_libraries_of_python, ignore_progress, make_root, open_store
from tests.support.sandbox import (
    GENEROUS,
    ORDINARY_USER,
    RecordingWatcher,
    find_host_processes,
    run_python,
)
from tests.support.stream_programs import stream_request

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime_dir() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(sandbox_python: Path, runtime_dir: Path) -> AsyncIterator[GVisor]:
    """Skipped without runsc; where there is one it has to work."""
    started = gvisor(sandbox_python, runtime_dir, runsc())
    status = await started.probe()
    assert status.available, status
    yield started
    await started.close()
    assert not entry_names(runtime_dir)


async def test_probe_names_the_kernel_the_platform_and_the_languages(backend: GVisor):
    status = await backend.probe()

    assert status.isolation is not None
    assert status.isolation.level is IsolationLevel.GVISOR
    assert {"gvisor_kernel", "no_network"} <= set(status.isolation.layers)
    assert status.languages["python"].startswith("3.")
    assert status.languages["sh"]
    assert isinstance(backend, WatchableBackend)


async def test_streams_when_opened_by_name_then_they_are_the_programs(backend: GVisor) -> None:
    """F1"""
    result = await backend.run(stream_request("python"))

    assert (result.stdout, result.stderr, result.exit_code) == (b"abc", b"e", 0)


async def test_run_with_files_input_and_artifacts_comes_back_whole(backend: GVisor):
    code = (
        "import os, sys; print(open('d/in').read(), sys.stdin.read()); "
        "open('out', 'wb').write(bytes(1 << 20)); os.symlink('/etc/passwd', 'link'); "
        "print(sorted(os.environ), file=sys.stderr); sys.exit(3)"
    )

    result = await run_python(
        backend,
        code,
        files=(SandboxFile("d/in", b"file"),),
        stdin=b"in" * 100_000,
        artifacts=("out", "link"),
        env={"A": "b"},
    )

    assert (result.reason, result.exit_code) == (EndReason.EXITED, 3)
    assert result.stdout == b"file " + b"in" * 100_000 + b"\n"
    assert result.stderr == b"['A', 'HOME', 'LANG', 'PATH', 'PYTHONUNBUFFERED', 'TMPDIR']\n"
    assert result.artifacts == (SandboxFile("out", bytes(1 << 20)),)
    assert result.artifacts_refused == ("link: not a plain file",)
    assert 0 < result.usage.cpu_s < 60
    assert result.usage.max_rss_bytes > 1 << 20
    assert result.isolation.backend == "gvisor"


async def test_program_of_the_host_works(backend: GVisor):
    request = RunRequest(("sh", "-c", "echo $((6 * 7)) | sed s/4/four-/"), limits=GENEROUS)

    assert (await backend.run(request)).stdout == b"four-2\n"


async def test_signal_and_missing_program_are_reported(backend: GVisor):
    killed = await run_python(backend, "import os; os.kill(os.getpid(), 15)")
    missing = await backend.run(RunRequest(("no-such-program",), limits=GENEROUS))

    assert (killed.reason, killed.signal) == (EndReason.SIGNALLED, 15)
    assert missing.exit_code == 127


_LIMITED = {
    EndReason.WALL_TIME: ("import time; time.sleep(600)", Limits(wall_s=1.0)),
    EndReason.CPU_TIME: ("while True: pass", Limits(wall_s=60.0, cpu_s=1.0)),
    EndReason.OUTPUT: (
        "while True: print('x' * 1000)",
        Limits(wall_s=60.0, cpu_s=30.0, output_killed_bytes=1 << 20),
    ),
    EndReason.MEMORY: (
        "all = []\nwhile True: all.append(b'x' * (1 << 20))",
        Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=128 << 20),
    ),
}


@pytest.mark.parametrize("reason", _LIMITED, ids=str)
async def test_run_beyond_a_limit_is_ended_for_it(backend: GVisor, reason: EndReason):
    code, limits = _LIMITED[reason]

    result = await run_python(backend, code, limits=limits)

    assert result.reason is reason, result


async def test_processes_beyond_the_limit_can_not_be_made(backend: GVisor):
    code = (
        "import os, time\nmade = 0\ntry:\n while True:\n  if os.fork() == 0:\n"
        "   time.sleep(600)\n  made += 1\nexcept OSError as error: print(made, error.errno)"
    )

    result = await run_python(backend, code, limits=Limits(60.0, 30.0, processes=8))

    made, number = map(int, result.stdout.split())
    assert made <= 8
    assert number == 11


async def test_files_beyond_the_size_of_a_folder_can_not_be_written(backend: GVisor):
    code = (
        "def fill(path):\n size = 0\n try:\n  with open(path, 'wb', 0) as file:\n"
        "   while True: size += file.write(bytes(65536))\n except OSError: print(size >> 20)\n"
        "fill('/workspace/x'); fill('/tmp/x'); fill('/dev/shm/x')"
    )
    limits = Limits(60.0, 30.0, workspace_bytes=4 << 20, tmp_bytes=2 << 20)

    result = await run_python(backend, code, limits=limits)

    assert all(int(size) <= 4 for size in result.stdout.split())
    assert len(result.stdout.split()) == 3


async def test_number_of_files_is_limited_in_each_folder(backend: GVisor):
    status = await backend.probe()
    assert status.isolation is not None
    if "inode_limit" not in status.isolation.layers:
        assert any("number of files" in lack for lack in status.isolation.degraded)
        pytest.skip("needs root: to have the files of a run counted by the host")
    code = (
        "import errno, os\ndef fill(path):\n try:\n  for n in range(10_000):"
        " open(f'{path}/{n}', 'x').close()\n"
        " except OSError as error: print(n, errno.errorcode[error.errno])\n"
        "fill('/workspace'); fill('/tmp'); fill('/dev/shm')"
    )

    result = await run_python(backend, code, limits=Limits(60.0, 30.0, workspace_files=40))

    assert result.stdout == b"40 ENOSPC\n" * 3, result


async def test_files_count_as_memory_of_the_run(backend: GVisor):
    code = (
        "with open('/workspace/x', 'wb', 0) as file:\n"
        " for _ in range(400): file.write(bytes(1 << 20))"
    )
    limits = Limits(60.0, 30.0, memory_bytes=64 << 20, workspace_bytes=512 << 20)

    assert (await run_python(backend, code, limits=limits)).reason is EndReason.MEMORY


async def test_artifact_whose_other_name_was_taken_away_comes_out(backend: GVisor):
    code = (
        "import os\nfor name in ('a', 'b'):\n open('draft', 'w').write(name)\n"
        " os.link('draft', name)\n os.unlink('draft')\n"
        "open('twice', 'w').close(); os.link('twice', 'again')"
    )

    result = await run_python(backend, code, artifacts=("*",))

    assert result.artifacts == (SandboxFile("a", b"a"), SandboxFile("b", b"b"))
    assert result.artifacts_refused == ("again: not a plain file", "twice: not a plain file")


async def test_processes_that_wait_for_a_processor_use_no_time_of_it(backend: GVisor):
    status = await backend.probe()
    assert status.isolation is not None
    if "cgroup_cpu" not in status.isolation.layers:
        pytest.skip("needs cgroup_cpu: only gVisor counts the processor time here")
    code = (
        "import os, time\nend = time.monotonic() + 1\n"
        "made = [os.fork() for _ in range(4)]\n"  # 16 processes
        "while time.monotonic() < end: pass\n"
        "for pid in filter(None, made): os.waitpid(pid, 0)"
    )

    result = await run_python(backend, code, limits=Limits(60.0, 5.0))

    assert result.reason is EndReason.EXITED, result
    assert 0 < result.usage.cpu_s < 5


async def test_nothing_of_the_host_is_visible(backend: GVisor, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    code = (
        "import os, json; print(json.dumps([os.path.exists(path) for path in "
        f"({str(tmp_path / 'secret')!r}, '/root', '/home', '/etc/shadow', '/etc/hostname', "
        "'/sys/fs/cgroup/memory', '/dev/kvm')] + [sorted(os.listdir('/'))]))"
    )

    *seen, root = json.loads((await run_python(backend, code)).stdout)

    assert seen == [False] * 7
    assert "home" not in root
    assert "workspace" in root


async def test_network_leads_nowhere(backend: GVisor):
    code = (
        "import socket\nfor family, place in ((socket.AF_INET, ('1.1.1.1', 53)), "
        "(socket.AF_INET6, ('2606:4700:4700::1111', 53)), (socket.AF_UNIX, '\\0runsc')):\n"
        " try:\n  socket.socket(family).connect(place)\n  print('through')\n"
        " except OSError: print('no')"
    )

    assert (await run_python(backend, code)).stdout == b"no\n" * 3


async def test_watcher_gets_output_while_the_program_runs(backend: GVisor):
    events: list[bytes] = []
    playing: list[asyncio.Task[object]] = []

    class Watcher:
        def started(self) -> None:
            events.append(b"started")

        def output(self, stream: OutputStream, data: bytes) -> None:
            events.append(data)
            playing[0].cancel()

    code = "import time; print('word', flush=True); time.sleep(600)"
    request = RunRequest(("python", "-c", code), limits=GENEROUS)
    playing.append(asyncio.create_task(backend.run_watched(request, Watcher())))

    with pytest.raises(asyncio.CancelledError):
        await playing[0]

    assert events == [b"started", b"word\n"]


async def test_cancelled_runs_leave_nothing(backend: GVisor, runtime_dir: Path):
    before = entry_names(runtime_dir / "gvisor")
    request = RunRequest(("sleep", "600"), limits=GENEROUS)
    watchers = [RecordingWatcher() for _ in range(2)]
    runs = [asyncio.create_task(backend.run_watched(request, each)) for each in watchers]
    await until(lambda: all(each.events for each in watchers))

    for run in runs:
        run.cancel()
    ended = await asyncio.gather(*runs, return_exceptions=True)

    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    assert entry_names(runtime_dir / "gvisor") == before
    assert not find_host_processes(str(runtime_dir))


_SERVER = """
import asyncio, sys, pathlib
from tests.support.gvisor import gvisor
from tests.support.sandbox import RunRequest
class Watcher:
    def started(self): print("started", flush=True)
    def output(self, stream, data): pass
async def main():
    backend = gvisor(*map(pathlib.Path, sys.argv[1:4]))
    await backend.run_watched(RunRequest(("python", "-c", sys.argv[4])), Watcher())
asyncio.run(main())
"""


async def test_runs_when_the_server_is_killed_then_they_end_too(sandbox_python: Path):
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder:
        code = f"import time; time.sleep(600); {mark!r}"
        words = (str(sandbox_python), folder, str(runsc()), code)
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SERVER, *words), stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert await asyncio.wait_for(server.stdout.readline(), 120) == b"started\n"

        server.kill()
        await server.wait()

        await until(lambda: not find_host_processes(folder))


async def test_runner_that_requires_gvisor_takes_a_chosen_root_file_system_along(
    sandbox_python: Path, tmp_path: Path
):
    folder = make_root(tmp_path / "tiny", ("sh", "cat"))
    copy_libraries_of_python(sandbox_python, folder)
    (folder / "nix").mkdir()
    (folder / "nix" / "mark").write_text("of the root")
    open_store(tmp_path / "data").add(folder, "tiny", "", ignore_progress)
    backend = gvisor(
        sandbox_python, tmp_path / "run", runsc(), data_dir=tmp_path / "data", rootfs="tiny"
    )
    settings = SandboxSettings(require="gvisor", languages=())
    runner = SandboxRunner({"gvisor": backend}, settings)
    await runner.start()
    try:
        script = "cat /nix/mark; command -v ls || echo , and no more"
        result = await runner.run(RunRequest(("sh", "-c", script), limits=GENEROUS))
    finally:
        await runner.close()

    assert result.stdout == b"of the root, and no more\n", result
    assert result.isolation.level is IsolationLevel.GVISOR


async def test_ordinary_user_gets_the_same_isolation(ordinary_home: Path):
    program = ordinary_home / "runsc"
    shutil.copy(runsc(), program)
    program.chmod(0o755)
    code = (
        "print(6 * 7, flush=True)\nimport os, time; os.mkdir('/tmp/d', 0o700)\n"
        "for number in range(5000): open(f'/tmp/d/{number}', 'x').close()\ntime.sleep(60)"
    )
    words = (ordinary_home / "python", ordinary_home / "run" / "g", program, code)

    done = await asyncio.to_thread(
        subprocess.run,
        [ordinary_home / "python/bin/python3", "-m", "tests.support.gvisor", *map(str, words)],
        capture_output=True,
        timeout=120,
        check=False,
        cwd=ordinary_home / "code",
        env={"PYTHONPATH": str(ordinary_home / "code"), "PATH": "/usr/bin:/bin"},
        user=ORDINARY_USER,
        group=ORDINARY_USER,
        extra_groups=[],
    )

    assert done.returncode == 0, done.stderr
    status, result = json.loads(done.stdout)
    assert status["available"]
    assert "no cgroup" in status["isolation"]["degraded"][0]
    assert "number of files" in status["isolation"]["degraded"][1]
    assert (result["reason"], result["signal"]) == ("signalled", 9)
    assert msgspec.convert(result["stdout"], bytes) == b"42\n"
    stderr = msgspec.convert(result["stderr"], bytes)
    assert stderr == b"sandbox: there were more than 4096 files\n"
