"""A service in a control group of its own: executes runs and reports how the kernel limited them.

Arguments: the runtime folder; "smoke", "some" or "all". Prints one JSON object.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any

from appliance.domain.execution import MIB, Limits, RunRequest, RunResult
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support import delegation_programs as programs
from tests.support.sandbox_service import plugin_context

PYTHON = Path("/opt/python")
_GROUPS = Path("/sys/fs/cgroup")
_WATCHED = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
_INTERVAL_S = 0.2

# An emulated machine is slow.
_SLOW_MACHINE: dict[str, Any] = {"wall_s": 120.0, "cpu_s": 120.0}


class GroupWatcher:
    """Records the control groups of runs below `home` while they exist."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.groups: dict[str, dict[str, Any]] = {}

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncGenerator[None]:
        self.groups = {}
        task = asyncio.create_task(self._record_all())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _record_all(self) -> None:
        while True:
            for group in self._home.glob("monkey-coder-*-*/run-*"):
                with contextlib.suppress(OSError):  # it has ended
                    self._record(group)
            await asyncio.sleep(_INTERVAL_S)

    def _record(self, group: Path) -> None:
        record = self.groups.setdefault(group.name, {"most_processes": 0})
        members = (group / "cgroup.procs").read_text().split()
        record["most_processes"] = max(record["most_processes"], len(members))
        record |= {name: (group / name).read_text().strip() for name in _WATCHED}
        record["throttled"] = _number(group / "cpu.stat", "nr_throttled")
        sample = (time.monotonic(), _number(group / "cpu.stat", "usage_usec") / 1e6)
        record.setdefault("first_cpu", sample)
        record["last_cpu"] = sample


class Runs:
    """The runs, each with a record of its control group."""

    def __init__(self, backend: Bubblewrap, watch: GroupWatcher) -> None:
        self._backend = backend
        self._watch = watch

    async def two_at_once(self) -> dict[str, Any]:
        first = self._python(programs.SHOWS_GROUP, memory_bytes=64 * MIB, processes=10, cpus=0.5)
        second = self._python(programs.SHOWS_GROUP, memory_bytes=80 * MIB, processes=20, cpus=0.75)
        async with self._watch.recording():
            results = await asyncio.gather(first, second)
        return {"results": [_encode(result) for result in results], "groups": self._watch.groups}

    async def alone(self, code: str, **limits: Any) -> dict[str, Any]:
        async with self._watch.recording():
            result = await self._python(code, **limits)
        return {"result": _encode(result), "groups": self._watch.groups}

    async def memory_in_children(self) -> dict[str, Any]:
        """A shell that would continue if the kernel killed only one process."""
        request = RunRequest(
            ("sh", "-c", 'python -c "$CODE"; echo survived'),
            env={"CODE": programs.USES_MEMORY_IN_CHILDREN},
            limits=Limits(memory_bytes=64 * MIB, **_SLOW_MACHINE),
        )
        return {"result": _encode(await self._backend.run(request))}

    async def fork_bomb(self) -> dict[str, Any]:
        result = await self.alone(programs.FORK_BOMB, processes=12, wall_s=3.0)
        return result | {"alive": _alive()}

    def _python(self, code: str, **limits: Any) -> Awaitable[RunResult]:
        request = RunRequest(("python", "-c", code), limits=Limits(**{**_SLOW_MACHINE, **limits}))
        return self._backend.run(request)


async def main(runtime_dir: Path, extent: str) -> dict[str, Any]:
    home = _own_group()
    backend = Bubblewrap(plugin_context(PYTHON, runtime_dir))
    watch = GroupWatcher(home)
    report: dict[str, Any] = {}
    try:
        status = await backend.probe()
        report |= {"problem": status.problem, "moved_to": _own_group().name}
        report["in_the_group_itself"] = (home / "cgroup.procs").read_text().split()
        if status.isolation is not None:
            report["layers"] = status.isolation.layers
            report["degraded"] = status.isolation.degraded
        if status.available:
            report |= await _runs(Runs(backend, watch), extent)
            report["group_kill"] = _group_kill(home)
            if extent != "smoke":
                report["beside_others"] = await _beside_others(Runs(backend, watch), home)
        report["run_groups_before_close"] = [path.name for path in _run_groups(home)]
    finally:
        await backend.close()
    report["groups_after_close"] = [path.name for path in home.iterdir() if path.is_dir()]
    report["moved_back"] = _own_group() == home
    return report


async def _runs(runs: Runs, extent: str) -> dict[str, Any]:
    report = {
        "memory_in_children": await runs.memory_in_children(),
        "busy": await runs.alone(programs.BUSY, cpus=0.25, wall_s=3.0),
    }
    if extent == "all":
        report["two_at_once"] = await runs.two_at_once()
        report["memory"] = await runs.alone(programs.USES_MEMORY, memory_bytes=64 * MIB)
        report["fork_bomb"] = await runs.fork_bomb()
    return report


async def _beside_others(runs: Runs, home: Path) -> dict[str, Any]:
    """A run while other services divide the same group, make groups in it and undo that."""
    running = asyncio.create_task(runs.alone(programs.SLEEPS))
    others = [await _another() for _ in range(2)]
    members = [len(_procs(group)) for group in _run_groups(home)]
    running.cancel()
    await asyncio.wait({running})
    after = await runs.alone(programs.USES_MEMORY, memory_bytes=64 * MIB)
    return {"others": others, "members": members, "after": after["result"]}


async def _another() -> list[str]:
    """The layers of a service that starts, makes a group and ends."""
    another = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", programs.ANOTHER_SERVICE), stdout=subprocess.PIPE
    )
    output, _ = await another.communicate()
    return json.loads(output)


def _group_kill(home: Path) -> dict[str, Any]:
    """Only with cgroup.kill: its processes would survive a signal to the first of them."""
    controller = CgroupController()
    group = controller.create_run_group(Limits(processes=6))
    if group is None:
        return {"reason": controller.unavailable_reason}
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", programs.FORKS_AFTER_A_LINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    group.add_process(child.pid)
    (path,) = [path for path in _run_groups(home) if str(child.pid) in _procs(path)]
    assert child.stdin
    assert child.stdout
    child.stdin.write(b"go\n")
    child.stdin.flush()
    report = {
        "line": child.stdout.readline().decode().strip(),
        "members": len(_procs(path)),
        "limit": (path / "pids.max").read_text().strip(),
        "forks_refused": _number(path / "pids.events", "max"),
    }
    group.kill()
    report["status"] = child.wait(60)
    report["end_of_output"] = child.stdout.read().decode()  # at its end, when no process holds it
    deadline = time.monotonic() + 60
    while not (removed := group.remove()) and time.monotonic() < deadline:
        time.sleep(_INTERVAL_S)
    return report | {"removed": removed, "closed": controller.close()}


def _encode(result: RunResult) -> dict[str, Any]:
    return {
        "reason": result.reason,
        "exit_code": result.exit_code,
        "stdout": result.stdout.decode(),
        "stderr": result.stderr.decode()[-300:],
        "wall_s": result.usage.wall_s,
        "cpu_s": result.usage.cpu_s,
        "max_rss_bytes": result.usage.max_rss_bytes,
    }


def _own_group() -> Path:
    path = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
    return _GROUPS / path


def _run_groups(home: Path) -> list[Path]:
    return list(home.glob("monkey-coder-*-*/run-*"))


def _procs(group: Path) -> list[str]:
    return (group / "cgroup.procs").read_text().split()


def _number(path: Path, name: str) -> int:
    return int(dict(line.split() for line in path.read_text().splitlines())[name])


def _alive() -> list[str]:
    """Command lines on this machine with the test's mark in them."""
    lines: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in lines if programs.MARK in line]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))))
