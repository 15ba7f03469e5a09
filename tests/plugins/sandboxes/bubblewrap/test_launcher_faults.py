"""The real launcher: what happens when it or the service ends or stops at any moment."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.execution import Limits, RunResult
from appliance.errors import SandboxUnavailable
from plugins._shared.cgroups import base as groups
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits
from plugins.sandboxes.bubblewrap.runs import process_tree, spawner
from tests.support.polling import until
from tests.support.sandbox import (
    ROOT,
    Backend,
    find_host_processes,
    find_orphaned_sandboxes,
    run_python,
    start_as_ordinary_user,
    start_service,
)
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

DEADLINE_S = 60.0


class Opened(Bubblewrap):
    """Gives access to the spawner."""

    @property
    def spawner(self) -> spawner.Spawner:
        return self._spawner


@pytest_asyncio.fixture
async def own(sandbox_python: Path, tmp_path: Path) -> AsyncIterator[Opened]:
    """A backend in this process, whose launcher a test may kill."""
    backend = Opened(plugin_context(sandbox_python, tmp_path))
    status = await backend.probe()
    if not status.available:
        await backend.close()
        pytest.skip(f"needs sandbox: {status.problem}")
    yield backend
    await backend.close()


def launcher_of(service: int) -> int:
    """The outer process; the inner one is its child."""
    found = [pid for pid in children_of(service) if b"bubblewrap.launcher" in command_line(pid)]
    assert len(found) == 1
    return found[0]


def inner_of(launcher: int) -> int:
    (inner,) = children_of(launcher)
    return inner


def children_of(pid: int) -> list[int]:
    folders = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for folder in folders for word in (folder / "children").read_text().split()]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def mounts_of(pid: int | str) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()


def names_in_environment(pid: int) -> set[bytes]:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {word.partition(b"=")[0] for word in words if word}


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def namespace(pid: int, name: str) -> Path:
    return Path(f"/proc/{pid}/ns/{name}").readlink()


async def start_run(backend: Backend, mark: str) -> "asyncio.Task[RunResult]":
    """Start a run, and wait until both of its processes sleep."""
    code = f"import os, time\nos.fork(); time.sleep(600)  # {mark}"
    running = asyncio.create_task(run_python(backend, code))
    await until(lambda: len(find_host_processes(mark)) == 2 or running.done())
    assert not running.done(), running
    return running


def remaining_groups(launcher: int) -> list[Path]:
    """Control groups of a launcher, in all mounted hierarchies."""
    own_groups = groups.parse_own_groups(groups.read_file("/proc/self/cgroup"))
    folders = [
        mount.locate(own_groups[name])
        for mount in groups.parse_mounts(groups.read_file("/proc/self/mountinfo"))
        for name in mount.options.intersection(own_groups)
    ]
    return [
        path for folder in folders for path in Path(folder).glob(f"{groups.PREFIX}{launcher}-*")
    ]


async def error_of(running: Awaitable[RunResult]) -> str:
    with pytest.raises(SandboxUnavailable) as caught:
        await asyncio.wait_for(running, DEADLINE_S)
    return caught.value.message


@pytest.mark.parametrize("which", ["outer", "inner"])
async def test_launcher_when_killed_then_its_runs_end_and_the_next_one_works(
    own: Opened, which: str
) -> None:
    mark = f"launcher-{which}-{os.getpid()}"
    outer = launcher_of(os.getpid())
    running = await start_run(own, mark)

    os.kill(outer if which == "outer" else inner_of(outer), signal.SIGKILL)

    assert "ended" in await error_of(running)
    assert not find_host_processes(mark)
    assert (await run_python(own, "print(1)")).stdout == b"1\n"
    assert launcher_of(os.getpid()) != outer
    assert remaining_groups(outer) == []


async def test_launcher_when_stopped_then_a_run_ends_with_an_error_in_time(
    own: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        (process_tree, "_KILL_S"),
        (process_tree, "_HARD_KILL_S"),
        (spawner, "_SETUP_S"),
    ):
        monkeypatch.setattr(module, name, 0.5)
    mark = f"stopped-{os.getpid()}"
    running = await start_run(own, mark)
    outer = launcher_of(os.getpid())
    for pid in (outer, inner_of(outer)):
        os.kill(pid, signal.SIGSTOP)

    assert "not set up within" in await error_of(run_python(own, "print(1)"))
    await error_of(running)
    assert not find_host_processes(mark)
    monkeypatch.setattr(spawner, "_SETUP_S", 30.0)
    assert (await run_python(own, "print(1)")).stdout == b"1\n"


async def test_launcher_when_it_gets_a_stop_signal_then_it_continues(own: Opened) -> None:
    outer = launcher_of(os.getpid())
    for pid in (outer, inner_of(outer)):
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)

    # Programs do not inherit the ignored signals.
    result = await run_python(own, "import os\nos.kill(os.getpid(), 15)")

    assert launcher_of(os.getpid()) == outer
    assert result.signal == signal.SIGTERM


async def test_launcher_when_sent_garbage_then_it_ends_and_is_started_again(
    own: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start_run(own, f"garbage-{os.getpid()}")
    with monkeypatch.context() as patched:
        patched.setattr(KernelLimits, "encode", garbage)
        await error_of(run_python(own, "print(1)"))

    await error_of(running)
    assert (await run_python(own, "print(1)")).stdout == b"1\n"


def garbage(_: KernelLimits) -> bytes:
    return b"\xff" * 1000


@pytest.mark.parametrize("user", ["user of the tests", "ordinary user"])
async def test_service_when_killed_then_no_process_group_or_mount_is_left(
    user: str, sandbox_python: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    mark = f"service-{os.getpid()}"
    before = find_orphaned_sandboxes()
    if user == "ordinary user":
        service = await start_as_ordinary_user(request.getfixturevalue("ordinary_home"))
    else:
        service = await start_service(sandbox_python, tmp_path, ROOT, None)
    if not (await service.probe()).available:
        await service.close()
        pytest.skip("needs sandbox: this machine cannot confine")
    running = await start_run(service, mark)
    mounts = mounts_of("self")
    outer = launcher_of(service.pid)
    inner = inner_of(outer)

    await service.kill()

    await until(lambda: not (Path(f"/proc/{outer}").exists() or Path(f"/proc/{inner}").exists()))
    assert not find_host_processes(mark)
    assert remaining_groups(outer) == []
    assert find_orphaned_sandboxes() <= before
    assert mounts_of("self") == mounts
    await asyncio.wait([running])


async def test_spawn_when_forty_are_requested_at_once_then_all_run_and_no_two_share_a_user(
    own: Opened,
) -> None:
    seen: list[set[int]] = []

    async def watch() -> None:
        while True:
            seen.append(set(users_of_runs()))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    results = await asyncio.gather(*(run_python(own, f"print({i})") for i in range(40)))
    watching.cancel()
    await asyncio.wait({watching})

    assert watching.cancelled(), watching
    with suppress(asyncio.CancelledError):
        await watching  # raises what it found

    assert [result.stdout for result in results] == [b"%d\n" % i for i in range(40)]
    if own.spawner.user_ids.own_user:
        assert max(map(len, seen)) > 1


def users_of_runs() -> list[int]:
    """User ids of this service's sandboxes; fails if two have the same."""
    found: list[int] = []
    for pid in children_of(inner_of(launcher_of(os.getpid()))):
        try:
            if b"sandbox/init.pyc" in command_line(pid):
                found.append(Path(f"/proc/{pid}").stat().st_uid)
        except OSError:
            continue
    if os.geteuid() == 0:
        assert len(set(found)) == len(found)
    return found


async def test_spawn_when_cancelled_at_any_moment_then_nothing_is_left(own: Opened) -> None:
    for step in range(12):
        task = asyncio.create_task(run_python(own, "while True: pass"))
        await asyncio.sleep(step * 0.004)
        task.cancel()
        await asyncio.wait({task})
    assert (await run_python(own, "print(1)")).stdout == b"1\n"

    inner = inner_of(launcher_of(os.getpid()))
    await until(lambda: children_of(inner) == [])
    assert "workspace" not in mounts_of(inner)


async def test_spawn_when_the_launcher_is_out_of_descriptors_then_an_error_and_it_continues(
    own: Opened,
) -> None:
    inner = inner_of(launcher_of(os.getpid()))
    _, hard = resource.prlimit(inner, resource.RLIMIT_NOFILE)
    resource.prlimit(inner, resource.RLIMIT_NOFILE, (20, hard))

    assert "open files" in await error_of(run_python(own, "print(1)"))

    resource.prlimit(inner, resource.RLIMIT_NOFILE, (1024, hard))
    assert (await run_python(own, "print(1)")).stdout == b"1\n"
    assert inner_of(launcher_of(os.getpid())) == inner


async def test_launcher_when_inspected_then_it_has_no_environment_and_its_own_session(
    own: Opened,
) -> None:
    outer = launcher_of(os.getpid())
    for pid in (outer, inner_of(outer)):
        assert names_in_environment(pid) <= {b"PYTHONPATH"}
        assert os.getsid(pid) != os.getsid(0)
        assert threads(pid) == 1
    inner = inner_of(outer)
    for name in ("mnt", "pid"):
        assert namespace(os.getpid(), name) != namespace(inner, name)


async def test_set_limits_when_a_sandbox_is_idle_then_they_are_changed(own: Opened) -> None:
    """Without the pool, which calls this too."""
    spawner = own.spawner
    uid = spawner.user_ids.acquire()
    waiting = await spawner.spawn(Limits(), uid)

    adapted = await spawner.set_limits(waiting, Limits(workspace_files=7, workspace_bytes=1 << 20))

    inner = inner_of(launcher_of(os.getpid()))
    lines = mounts_of(inner).splitlines()
    workspaces = [line for line in lines if "/workspace" in line]
    await process_tree.ProcessTree(waiting, lambda: None).end()
    for fd in waiting.fds.values():
        os.close(fd)
    spawner.user_ids.release(uid)
    assert adapted
    assert any("size=1024k,nr_inodes=8" in line for line in workspaces), workspaces


async def test_run_when_files_are_too_many_then_the_limit_holds(own: Opened) -> None:
    code = """
import os
for folder in ('.', '/tmp', '/dev/shm'):
    count = 0
    try:
        while count < 500:
            os.close(os.open(f'{folder}/f{count}', os.O_CREAT)); count += 1
    except OSError as error: print(folder, count, error.errno)
"""
    limits = Limits(wall_s=60, cpu_s=30, workspace_files=100)
    result = await run_python(own, code, limits=limits)
    status = await own.probe()

    assert result.stdout == b". 100 28\n/tmp 100 28\n/dev/shm 100 28\n", result
    assert status.isolation is not None
    assert "inode_limit" in status.isolation.layers


async def test_bwrap_when_its_copy_is_opened_for_writing_then_refused(own: Opened) -> None:
    """Even as root and from outside: the file system that it lies on is read-only."""
    running = await start_run(own, f"copy-{os.getpid()}")

    refused = writing_refused(inner_of(launcher_of(os.getpid())))

    running.cancel()
    await asyncio.wait({running})
    assert refused == 4


def writing_refused(inner: int) -> int:
    """How many of the launcher's files, one of them new, can't be opened for writing."""
    (monitor,) = [pid for pid in children_of(inner) if b"sandbox/init.pyc" in command_line(pid)]
    program = Path(f"/proc/{monitor}/exe")
    base = Path(f"/proc/{inner}/root", *program.readlink().parts[1:-3])
    paths = [program, *(base / name for name in ("etc/sandbox/init.pyc", "counted.bpf", "new"))]
    for path in paths:
        with pytest.raises(OSError, match=r"Read-only file system|Text file busy"):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    return len(paths)
