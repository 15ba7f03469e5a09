"""A service in a control group of its own: real runs, and how the kernel held them.

Arguments: the runtime folder, and how much to try ("all" or "some"). Prints one JSON object.
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
from plugins._shared.cgroups.control import Fence
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support import delegation_programs as programs
from tests.support.sandbox_service import plugin_context

PYTHON = Path("/opt/python")
_GROUPS = Path("/sys/fs/cgroup")
_WATCHED = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
_LOOK_S = 0.2

# In an emulated machine everything takes its time.
_PATIENT: dict[str, Any] = {"wall_s": 120.0, "cpu_s": 120.0}


class Watch:
    """Looks at the groups of runs below `home` while they last."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.seen: dict[str, dict[str, Any]] = {}

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncGenerator[None]:
        self.seen = {}
        looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})

    async def _look_on(self) -> None:
        while True:
            for group in self._home.glob("monkey-coder-*-*/run-*"):
                with contextlib.suppress(OSError):  # it is over
                    self._look(group)
            await asyncio.sleep(_LOOK_S)

    def _look(self, group: Path) -> None:
        found = self.seen.setdefault(group.name, {"most_processes": 0})
        members = (group / "cgroup.procs").read_text().split()
        found["most_processes"] = max(found["most_processes"], len(members))
        found |= {name: (group / name).read_text().strip() for name in _WATCHED}
        found["throttled"] = _number(group / "cpu.stat", "nr_throttled")
        sample = (time.monotonic(), _number(group / "cpu.stat", "usage_usec") / 1e6)
        found.setdefault("first_cpu", sample)
        found["last_cpu"] = sample


class Shown:
    """The runs, one after the other."""

    def __init__(self, backend: Bubblewrap, watch: Watch) -> None:
        self._backend = backend
        self._watch = watch

    async def two_at_once(self) -> dict[str, Any]:
        first = self._python(programs.STAYS, memory_bytes=64 * MIB, processes=10, cpus=0.5)
        second = self._python(programs.STAYS, memory_bytes=80 * MIB, processes=20, cpus=0.75)
        async with self._watch.looking():
            results = await asyncio.gather(first, second)
        return {"results": [_told(result) for result in results], "groups": self._watch.seen}

    async def alone(self, code: str, **limits: Any) -> dict[str, Any]:
        async with self._watch.looking():
            result = await self._python(code, **limits)
        return {"result": _told(result), "groups": self._watch.seen}

    async def family_with_a_survivor(self) -> dict[str, Any]:
        """A shell that would live on if the kernel killed no more than it must."""
        request = RunRequest(
            ("sh", "-c", 'python -c "$CODE"; echo survived'),
            env={"CODE": programs.HUNGRY_FAMILY},
            limits=Limits(memory_bytes=64 * MIB, **_PATIENT),
        )
        return {"result": _told(await self._backend.run(request))}

    async def bomb(self) -> dict[str, Any]:
        shown = await self.alone(programs.BOMB, processes=12, wall_s=3.0)
        return shown | {"alive": _alive()}

    def _python(self, code: str, **limits: Any) -> Awaitable[RunResult]:
        request = RunRequest(("python", "-c", code), limits=Limits(**{**_PATIENT, **limits}))
        return self._backend.run(request)


async def main(runtime_dir: Path, extent: str) -> dict[str, Any]:
    home = _own_group()
    backend = Bubblewrap(plugin_context(PYTHON, runtime_dir))
    watch = Watch(home)
    said: dict[str, Any] = {}
    try:
        status = await backend.probe()
        said |= {"problem": status.problem, "moved_to": _own_group().name}
        said["in_the_group_itself"] = (home / "cgroup.procs").read_text().split()
        if status.isolation is not None:
            said["layers"] = status.isolation.layers
            said["degraded"] = status.isolation.degraded
        if status.available:
            said |= await _runs(Shown(backend, watch), extent)
            said["group_kill"] = _group_kill(home)
            said["beside_others"] = await _beside_others(Shown(backend, watch), home)
        said["run_groups_before_close"] = [path.name for path in _run_groups(home)]
    finally:
        await backend.close()
    said["groups_after_close"] = [path.name for path in home.iterdir() if path.is_dir()]
    said["moved_back"] = _own_group() == home
    return said


async def _runs(shown: Shown, extent: str) -> dict[str, Any]:
    said = {"family": await shown.family_with_a_survivor()}
    if extent == "all":
        said["two_at_once"] = await shown.two_at_once()
        said["hungry"] = await shown.alone(programs.HUNGRY, memory_bytes=64 * MIB)
        said["bomb"] = await shown.bomb()
        said["busy"] = await shown.alone(programs.BUSY, cpus=0.25, wall_s=3.0)
    return said


async def _beside_others(shown: Shown, home: Path) -> dict[str, Any]:
    """A run while other services divide the same group, make groups in it and give it back."""
    running = asyncio.create_task(shown.alone(programs.SLEEPS))
    others = [await _another() for _ in range(2)]
    members = [len(_procs(group)) for group in _run_groups(home)]
    running.cancel()
    await asyncio.wait({running})
    after = await shown.alone(programs.HUNGRY, memory_bytes=64 * MIB)
    return {"others": others, "members": members, "after": after["result"]}


async def _another() -> list[str]:
    """The layers of a service that starts, makes a group and ends."""
    another = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", programs.ANOTHER_SERVICE), stdout=subprocess.PIPE
    )
    said, _ = await another.communicate()
    return json.loads(said)


def _group_kill(home: Path) -> dict[str, Any]:
    """By cgroup.kill alone: processes that would outlive a signal to the first of them."""
    fence = Fence()
    group = fence.make(Limits(processes=6))
    if group is None:
        return {"lack": fence.lack}
    family = subprocess.Popen(
        [sys.executable, "-S", "-c", programs.FORKS_ON_ORDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    group.take_in(family.pid)
    (place,) = [path for path in _run_groups(home) if str(family.pid) in _procs(path)]
    assert family.stdin
    assert family.stdout
    family.stdin.write(b"go\n")
    family.stdin.flush()
    said = {
        "said": family.stdout.readline().decode().strip(),
        "members": len(_procs(place)),
        "most": (place / "pids.max").read_text().strip(),
        "forks_refused": _number(place / "pids.events", "max"),
    }
    group.kill()
    said["status"] = family.wait(60)
    said["end_of_output"] = family.stdout.read().decode()  # once all that held it are gone
    deadline = time.monotonic() + 60
    while not (removed := group.remove()) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return said | {"removed": removed, "closed": fence.close()}


def _told(result: RunResult) -> dict[str, Any]:
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
    found: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in found if programs.MARK in line]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))))
