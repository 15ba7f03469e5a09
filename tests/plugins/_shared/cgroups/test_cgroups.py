"""Control groups: detection, limits, and that none is left over."""

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.execution import MIB, EndReason, Limits, RunRequest
from plugins._shared.cgroups import base, stale, v1, v2
from plugins._shared.cgroups.base import CgroupsUnavailable
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.polling import until
from tests.support.sandbox import run_python
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

MOUNTS = """\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
29 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
30 23 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 23 0:28 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 none rw,nsdelegate
"""


def test_mounts_when_read_then_only_control_groups_and_their_roots() -> None:
    cpu, memory, unified = base.parse_mounts(MOUNTS)

    assert {"cpu", "cpuacct"} <= cpu.options
    assert memory.locate("/docker/abc/x") == "/sys/fs/cgroup/memory/x"
    assert (unified.fs_type, unified.locate("/a")) == ("cgroup2", "/sys/fs/cgroup/unified/a")


@pytest.mark.parametrize("group", ["/docker", "/other/x", "/docker/abc/../x"])
def test_mount_when_the_group_lies_outside_then_none(group: str) -> None:
    with pytest.raises(CgroupsUnavailable, match="not visible"):
        base.parse_mounts(MOUNTS)[1].locate(group)


def test_own_groups_when_read_then_one_per_controller() -> None:
    found = base.parse_own_groups("3:cpu,cpuacct:/a\n2:memory:/b:c\n1:name=systemd:/\n0::/d\n")

    assert found == {"cpu": "/a", "cpuacct": "/a", "memory": "/b:c", "name=systemd": "/", "": "/d"}


def test_find_stale_when_the_owner_has_ended_then_found(tmp_path: Path) -> None:
    own, old = tmp_path / stale.new_parent_name(), tmp_path / f"{base.PREFIX}{os.getpid()}-1-0"
    for path in (own, old, tmp_path / f"{base.PREFIX}service", tmp_path / "other-1-2"):
        path.mkdir()

    assert stale.find_stale(str(tmp_path)) == [str(old)]


def test_find_stale_when_the_group_is_locked_then_not_found(tmp_path: Path) -> None:
    # Like the group of an owner that is not visible: another user, or another process namespace.
    hidden = tmp_path / f"{base.PREFIX}{os.getpid()}-1-0"
    hidden.mkdir()
    lock = stale.lock_group(str(hidden))
    try:
        assert stale.find_stale(str(tmp_path)) == []
    finally:
        os.close(lock)
    assert stale.find_stale(str(tmp_path)) == [str(hidden)]


def test_remove_tree_when_members_are_not_visible_then_only_visible_ones_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def note(pid: int, signal: int) -> None:
        killed.append(pid)

    monkeypatch.setattr(os, "kill", note)
    (tmp_path / "cgroup.procs").write_text("0\n4711\n0\n")

    assert not stale.remove_tree(str(tmp_path))
    assert killed == [4711]


# Version 2, on plain folders in place of a delegated group: what is written where. This needs no
# free controller of version 2 on the machine.


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    group = tmp_path / "coder.service"
    group.mkdir()
    (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (group / "cgroup.type").write_text("domain\n")
    return group


def test_v2_when_delegated_then_the_service_moves_and_runs_are_limited(delegated: Path) -> None:
    factory = v2.GroupFactoryV2(str(delegated), os.getpid())
    (parent,) = delegated.glob(f"{base.PREFIX}{os.getpid()}-*")

    assert (delegated / "monkey-coder-service" / "cgroup.procs").read_text() == str(os.getpid())
    for path in (delegated, parent):
        assert (path / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    group = factory.create(Limits(memory_bytes=64 * MIB, processes=10, cpus=0.5))
    group.add_process(4711)
    written = {path.name: path.read_text() for path in (parent / "run-0").iterdir()}
    assert written == {
        "memory.max": str(96 * MIB),
        "memory.oom.group": "1",
        "pids.max": "12",
        "cpu.max": "50000 100000",
        "cgroup.procs": "4711",
    }
    assert not group.oom_killed()
    (parent / "run-0" / "memory.events").write_text("oom 1\noom_kill 2\noom_group_kill 1\n")
    assert group.oom_killed()
    assert factory.layers == ("cgroup_memory", "cgroup_processes", "cgroup_cpu", "cgroup_kill")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EBUSY])
def test_v2_when_another_service_undoes_its_division_then_retried(
    delegated: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write, refused = base.write_file, list[str]()

    def refuse_once(path: str, value: object) -> None:
        if path.endswith("subtree_control") and path not in refused:
            refused.append(path)
            raise OSError(number, os.strerror(number))
        write(path, value)

    monkeypatch.setattr(base, "write_file", refuse_once)
    factory = v2.GroupFactoryV2(str(delegated), os.getpid())

    assert len(refused) == 2
    factory.create(Limits())


def test_v2_when_always_refused_then_not_delegated(
    delegated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, value: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(base, "write_file", refuse)
    with pytest.raises(CgroupsUnavailable, match="not delegated to it"):
        v2.GroupFactoryV2(str(delegated), os.getpid())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        ({"memory.peak": 90, "memory.current": 10, "memory.max": 96}, 90),
        ({"memory.current": 10, "memory.max": 96}, 10),
        ({"memory.current": 10, "memory.max": 96, "memory.events": "oom_kill 1\n"}, 96),
        ({"memory.peak": 90, "memory.stat": "anon 20\nfile 50\nshmem 30\n"}, 70),
        ({"memory.peak": 10, "memory.stat": "file 50\nshmem 0\n"}, 0),
    ],
)
def test_v2_group_memory_when_read_then_the_known_peak_without_cached_files(
    tmp_path: Path, files: dict[str, object], expected: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(str(content))

    assert v2.GroupV2(str(tmp_path), cpu=False).memory_bytes() == expected


def test_v2_when_others_live_in_the_group_then_it_is_left_alone(delegated: Path) -> None:
    (delegated / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")

    with pytest.raises(CgroupsUnavailable, match="other programs share"):
        v2.GroupFactoryV2(str(delegated), os.getpid())
    assert not (delegated / "monkey-coder-service").exists()


def test_v2_when_a_controller_is_missing_then_named(delegated: Path) -> None:
    (delegated / "cgroup.controllers").write_text("cpu pids\n")

    with pytest.raises(CgroupsUnavailable, match="no controller for memory"):
        v2.GroupFactoryV2(str(delegated), os.getpid())


def test_v2_group_when_killed_then_all_members_end() -> None:
    mounts = base.parse_mounts(read("/proc/self/mountinfo"))
    unified = next((mount for mount in mounts if mount.fs_type == "cgroup2"), None)
    if unified is None or os.geteuid() != 0:
        pytest.skip("needs cgroup_v2: a hierarchy of version 2, and root")
    path = Path(unified.mount_point, f"test-{stale.new_parent_name()}")
    group = v2.GroupV2(str(path), cpu=False)
    path.mkdir()
    try:
        shell = subprocess.Popen(["sh", "-c", "sleep 99 & sleep 99; :"])
        group.add_process(shell.pid)
        group.kill()
        assert shell.wait(20) == -9
    finally:
        for _ in range(200):
            if group.remove():
                break
    assert not path.exists()


# Version 1, real groups


@pytest.fixture(scope="module")
def first_version() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to make control groups of version 1")
    try:
        v1.detect(os.getpid()).close()
    except CgroupsUnavailable as error:
        pytest.skip(f"needs cgroup_v1: {error}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grouped(
    first_version: None, sandbox_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bubblewrap]:
    backend = Bubblewrap(plugin_context(sandbox_python, tmp_path_factory.mktemp("run")))
    status = await backend.probe()
    if not status.available:
        pytest.skip(f"needs sandbox: {status.problem}")
    yield backend
    await backend.close()
    assert own_parents() == []


def own_parents() -> list[Path]:
    own_groups = base.parse_own_groups(read("/proc/self/cgroup"))
    found = base.parse_mounts(read("/proc/self/mountinfo"))
    return [
        path
        for mount in found
        for controller in mount.options.intersection(own_groups)
        for path in Path(mount.locate(own_groups[controller])).glob(f"{base.PREFIX}*-*")
        if parent_of(int(path.name.split("-")[2])) == os.getpid()
    ]


def parent_of(pid: int) -> int:
    return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def run_groups() -> list[Path]:
    return [path for parent in own_parents() for path in parent.glob("run-*")]


def read(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_root_then_the_layers_say_so(grouped: Bubblewrap) -> None:
    status = await grouped.probe()

    assert status.isolation is not None
    assert {"cgroup_memory", "cgroup_processes"} <= set(status.isolation.layers)
    assert "memory_watch" not in status.isolation.layers
    assert not [lack for lack in status.isolation.degraded if "no cgroup" in lack]


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_a_run_starts_then_all_its_processes_are_in_its_group(
    grouped: Bubblewrap,
) -> None:
    code = "import os, time\nos.fork()\nprint(open('/proc/self/cgroup').read())\ntime.sleep(1)"
    running = asyncio.create_task(run_python(grouped, code))
    await until(lambda: running.done() or any(len(members(group)) >= 4 for group in run_groups()))
    assert not running.done(), running
    result = await running

    assert result.ok
    # It has a control group namespace: it sees its own group as the root.
    assert b":memory:/\n" in result.stdout
    assert run_groups() == []


def members(group: Path) -> list[str]:
    return base.read_file(str(group / "cgroup.procs")).split()


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_many_processes_share_memory_then_the_kernel_ends_the_run(
    grouped: Bubblewrap,
) -> None:
    code = (
        "import os, time\nfor _ in range(16):\n if os.fork() == 0: break\n"
        "x = os.urandom(1 << 20) * 90\ntime.sleep(60)"
    )
    limits = Limits(wall_s=60, cpu_s=60, memory_bytes=128 * MIB)
    result = await run_python(grouped, code, limits=limits)

    assert (result.reason, result.exit_code) == (EndReason.MEMORY, None)
    assert run_groups() == []


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_files_fill_the_memory_then_they_count(grouped: Bubblewrap) -> None:
    code = "for i in range(200): open(f'f{i}', 'wb').write(b'x' * (1 << 20))"
    limits = Limits(wall_s=60, cpu_s=60, memory_bytes=64 * MIB, workspace_bytes=512 * MIB)

    assert (await run_python(grouped, code, limits=limits)).reason is EndReason.MEMORY


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_a_parent_survives_its_oom_killed_child_then_still_memory(
    grouped: Bubblewrap,
) -> None:
    hungry = (
        "import mmap\nkept = []\nfor _ in range(30):\n"
        " kept.append(mmap.mmap(-1, 1 << 23)); kept[-1].write(b'x' * (1 << 23))"
    )
    request = RunRequest(
        ("sh", "-c", 'python -c "$CODE" || true; exit 0'),
        env={"CODE": hungry},
        limits=Limits(wall_s=60, cpu_s=60, memory_bytes=64 * MIB),
    )

    assert (await grouped.run(request)).reason is EndReason.MEMORY


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_one_processor_is_allowed_then_no_more_is_used(
    grouped: Bubblewrap,
) -> None:
    code = "import os\nos.fork(); os.fork()\nwhile True: pass"
    limits = Limits(wall_s=2, cpu_s=60, cpus=0.25)
    result = await run_python(grouped, code, limits=limits)

    assert result.reason is EndReason.WALL_TIME
    assert 0.1 < result.usage.cpu_s < 0.5 * result.usage.wall_s + 0.2


@pytest.mark.asyncio(loop_scope="module")
async def test_v1_when_runs_are_cancelled_at_any_moment_then_no_group_is_left(
    grouped: Bubblewrap,
) -> None:
    for step in range(10):
        task = asyncio.create_task(run_python(grouped, "while True: pass"))
        await asyncio.sleep(step * 0.01)
        task.cancel()
        await asyncio.wait({task})

    assert (await run_python(grouped, "print(1)")).ok
    assert run_groups() == []


def test_v1_group_when_killed_then_all_members_end(first_version: None) -> None:
    factory = v1.detect(os.getpid())
    group = factory.create(Limits())
    with group.spawn_inside():
        shell = subprocess.Popen(["sh", "-c", "sleep 99 & sleep 99; :"])
    own_groups = base.parse_own_groups(read("/proc/self/cgroup"))
    mounts = base.parse_mounts(read("/proc/self/mountinfo"))
    folder = next(mount.locate(own_groups["pids"]) for mount in mounts if "pids" in mount.options)
    (path,) = Path(folder).glob(f"{base.PREFIX}{os.getpid()}-*/run-0")
    try:
        while len(members(path)) < 3:
            assert shell.poll() is None
        group.kill()
        assert shell.wait(20) == -9
    finally:
        for _ in range(2000):
            if group.remove():
                break
        factory.close()
    assert not path.exists()


def test_controller_when_there_are_no_groups_then_the_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(service: int) -> base.GroupFactory:
        raise CgroupsUnavailable("nothing is mounted")

    monkeypatch.setattr(v1, "detect", none)
    monkeypatch.setattr(v2, "detect", none)
    controller = CgroupController()

    assert controller.create_run_group(Limits()) is None
    assert controller.layers == ("memory_watch",)
    assert "nothing is mounted" in controller.degraded[0]
    assert "Delegate=yes" in controller.remedy
    controller.close()
