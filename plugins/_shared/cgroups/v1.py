"""Control groups of version 1, which only root may make.

There is one hierarchy per controller, each with a group of its own for a run. The process
that becomes bwrap steps into them by itself: to be moved by another costs milliseconds.
"""

# ruff: noqa: PTH102, PTH103, PTH118, PTH123
import contextlib
import itertools
import os
from collections.abc import Generator, Mapping

from plugins._shared.cgroups import base, stale
from plugins._shared.cgroups.base import Limited, NoGroups
from plugins._shared.cgroups.cpu_quota import cpu_quota_us

_NEEDED = ("memory", "pids")
_LAYERS = {
    "memory": "cgroup_memory",
    "pids": "cgroup_processes",
    "cpu": "cgroup_cpu",
    "freezer": "cgroup_kill",
}
_MISSING = {
    "cpu": "no control group for processors: a run may keep all of them busy",
}
_ACCOUNT = "cpuacct"
_MEMORY, _WITH_SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
# What waits in TCP connections, of which each may hold megabytes, counts for neither.
_UNREAD = "memory.kmem.tcp.limit_in_bytes"


class GroupsV1:
    """Below the service's own group in each hierarchy."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        """`homes` are the service's own groups by controller. Raises NoGroups."""
        self._homes = dict(homes)
        self._numbers = itertools.count()
        name = stale.top_name()
        self._claims: list[int] = []
        self._tops = {controller: os.path.join(home, name) for controller, home in homes.items()}
        try:
            for home in homes.values():
                stale.sweep(home)
            for top in self._tops.values():
                os.makedirs(top, exist_ok=True)
            for top in self._tops.values():
                self._claims.append(stale.claim(top))
            # What is made in it inherits that.
            base.write_if_there(os.path.join(self._tops["memory"], "memory.swappiness"), 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.close()
            raise NoGroups(f"control groups can't be made ({error.strerror})") from error

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for name, layer in _LAYERS.items() if name in self._tops)

    @property
    def degraded(self) -> tuple[str, ...]:
        return tuple(lack for name, lack in _MISSING.items() if name not in self._tops)

    def make(self, limits: Limited) -> "GroupV1":
        name = f"run-{next(self._numbers)}"
        places = {controller: os.path.join(top, name) for controller, top in self._tops.items()}
        group = GroupV1(places, self._homes)
        try:
            group.set_up(limits)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> bool:
        for home in self._homes.values():
            stale.sweep(home)
        left = [top for top in self._tops.values() if not stale.remove_tree(top)]
        while self._claims and not left:
            os.close(self._claims.pop())
        return not left


class GroupV1:
    """Implements plugins._shared.cgroups.base.Group."""

    def __init__(self, places: Mapping[str, str], homes: Mapping[str, str]) -> None:
        self.alarm: int | None = None
        self._homes = homes
        self._places = places
        self._room: int | None = None

    def set_up(self, limits: Limited) -> None:
        """Make the folders and write the limits. Raises OSError."""
        for place in self._places.values():
            os.mkdir(place)
        self.limit(limits)
        self.alarm = _alarm(self._places["memory"])

    def limit(self, limits: Limited) -> None:
        self._limit_memory(limits.memory_bytes + base.OWN_MEMORY)
        base.write_if_there(self._file("memory", _UNREAD), limits.memory_bytes // 4)
        base.write(self._file("pids", "pids.max"), limits.processes + base.OWN_PROCESSES)
        if "cpu" in self._places:  # of the kernel's own period, which is PERIOD_US
            base.write(self._file("cpu", "cpu.cfs_quota_us"), cpu_quota_us(limits.cpus))

    def step_in(self) -> None:
        for place in self._places.values():
            _step_into(place)

    @contextlib.contextmanager
    def birthplace(self) -> Generator[None]:
        try:
            self.step_in()
            yield
        finally:
            for controller in self._places:
                _step_into(self._homes[controller])

    def take_in(self, pid: int) -> None:
        """Born here already."""

    def starved(self) -> bool:
        return base.count(base.read(self._file("memory", "memory.oom_control")), "oom_kill") > 0

    def cpu_us(self) -> int:
        places = [self._places[name] for name in (_ACCOUNT, "cpu") if name in self._places]
        told = base.read(os.path.join(places[0], "cpuacct.usage")) if places else ""
        return int(told or 0) // 1000

    def memory_bytes(self) -> int:
        most = int(base.read(self._file("memory", "memory.max_usage_in_bytes")) or 0)
        told = base.read(self._file("memory", "memory.stat"))
        # To be found in a tmpfs is to be in the cache, too, but of that nothing gives way.
        return max(0, most - base.count(told, "cache") + base.count(told, "shmem"))

    def kill(self) -> None:
        """Frozen first where that is possible: what forks can't outrun what kills it."""
        if "freezer" in self._places:
            base.write_if_there(self._file("freezer", "freezer.state"), "FROZEN")
        for pid in base.members(self._places["pids"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if "freezer" in self._places:
            base.write_if_there(self._file("freezer", "freezer.state"), "THAWED")

    def remove(self) -> bool:
        if self.alarm is not None:
            os.close(self.alarm)
            self.alarm = None
        return not [place for place in self._places.values() if not base.remove(place)]

    def _limit_memory(self, room: int) -> None:
        """Memory may never be above memory with swap: the wider one is written first."""
        names = [_MEMORY, _WITH_SWAP]
        if self._room is not None and room > self._room:
            names.reverse()
        for name in names:
            write = base.write if name == _MEMORY else base.write_if_there
            write(self._file("memory", name), room)
        self._room = room

    def _file(self, controller: str, name: str) -> str:
        return os.path.join(self._places[controller], name)


def available(service: int) -> GroupsV1:  # noqa: ARG001 - as in version 2
    """Raises NoGroups, with the reason."""
    if os.geteuid() != 0:
        raise NoGroups("only root can make control groups of version 1")
    own = base.own_groups(base.read("/proc/self/cgroup"))
    homes: dict[str, str] = {}
    for mount in base.mounts(base.read("/proc/self/mountinfo")):
        for controller in _wanted(mount) & own.keys():
            homes[controller] = mount.path(own[controller])
    if lacking := [name for name in _NEEDED if name not in homes]:
        raise NoGroups(f"no hierarchy of version 1 for {' and '.join(lacking)}")
    return GroupsV1(dict(sorted(homes.items())))


def _wanted(mount: base.Mount) -> frozenset[str]:
    """What a hierarchy is used for. The account of processor time is mostly kept beside "cpu"."""
    if mount.kind != "cgroup":
        return frozenset()
    return mount.options.intersection(_LAYERS) or mount.options.intersection({_ACCOUNT})


def _step_into(group: str) -> None:
    """Move the calling thread."""
    base.write(os.path.join(group, "tasks"), 0)


def _alarm(memory: str) -> int | None:
    """An eventfd that is told of each time that memory runs out (cgroup-v1/memory.rst, 9)."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open(os.path.join(memory, "memory.oom_control")) as control:
            told = f"{event} {control.fileno()}"
            base.write(os.path.join(memory, "cgroup.event_control"), told)
    except OSError:
        os.close(event)
        return None
    return event
