"""Control groups of version 1, which only root can make.

Each controller has a hierarchy of its own, in which each run has a group. The process that
becomes bwrap enters its groups itself: moving another process takes milliseconds.
"""

# ruff: noqa: PTH102, PTH103, PTH118, PTH123
import contextlib
import itertools
import os
from collections.abc import Generator, Mapping

from plugins._shared.cgroups import base, stale
from plugins._shared.cgroups.base import CgroupsUnavailable, GroupLimits, cpu_quota_us

_REQUIRED = ("memory", "pids")
_LAYERS = {
    "memory": "cgroup_memory",
    "pids": "cgroup_processes",
    "cpu": "cgroup_cpu",
    "freezer": "cgroup_kill",
}
_DEGRADED = {
    "cpu": "no control group for processors: a run can use all of them",
}
_CPU_ACCOUNTING = "cpuacct"
_SIGKILL = 9
_MEMORY, _WITH_SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
# Data in TCP connections, megabytes in each, is counted in neither of them.
_TCP_BUFFERS = "memory.kmem.tcp.limit_in_bytes"


class GroupFactoryV1:
    """Makes groups below the service's own group in each hierarchy."""

    def __init__(self, service_groups: Mapping[str, str]) -> None:
        """`service_groups` are the service's own, by controller. Raises CgroupsUnavailable."""
        self._service_groups = dict(service_groups)
        self._numbers = itertools.count()
        name = stale.new_parent_name()
        self._locks: list[int] = []
        self._parents = {
            controller: os.path.join(group, name) for controller, group in service_groups.items()
        }
        try:
            for group in service_groups.values():
                stale.remove_stale(group)
            for parent in self._parents.values():
                os.makedirs(parent, exist_ok=True)
            for parent in self._parents.values():
                self._locks.append(stale.lock_group(parent))
            # The groups of runs inherit it.
            base.write_if_exists(os.path.join(self._parents["memory"], "memory.swappiness"), 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.close()
            raise CgroupsUnavailable(
                f"control groups of version 1 could not be made ({error.strerror})"
            ) from error

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for name, layer in _LAYERS.items() if name in self._parents)

    @property
    def degraded(self) -> tuple[str, ...]:
        return tuple(text for name, text in _DEGRADED.items() if name not in self._parents)

    def create(self, limits: GroupLimits) -> "GroupV1":
        name = f"run-{next(self._numbers)}"
        paths = {key: os.path.join(parent, name) for key, parent in self._parents.items()}
        group = GroupV1(paths, self._service_groups)
        try:
            group.set_up(limits)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> bool:
        for group in self._service_groups.values():
            stale.remove_stale(group)
        remaining = [path for path in self._parents.values() if not stale.remove_tree(path)]
        while self._locks and not remaining:
            os.close(self._locks.pop())
        return not remaining


class GroupV1:
    """Implements base.Group; `paths` are the run's groups by controller."""

    def __init__(self, paths: Mapping[str, str], service_groups: Mapping[str, str]) -> None:
        self.oom_eventfd: int | None = None
        self._service_groups = service_groups
        self._paths = paths
        self._memory_limit: int | None = None

    def set_up(self, limits: GroupLimits) -> None:
        """Make the groups and set the limits. Raises OSError."""
        for path in self._paths.values():
            os.mkdir(path)
        self.set_limits(limits)
        self.oom_eventfd = _open_oom_eventfd(self._paths["memory"])

    def set_limits(self, limits: GroupLimits) -> None:
        self._set_memory_limit(limits.memory_bytes + base.OWN_MEMORY)
        base.write_if_exists(self._file("memory", _TCP_BUFFERS), limits.memory_bytes // 4)
        base.write_file(self._file("pids", "pids.max"), limits.processes + base.OWN_PROCESSES)
        if "cpu" in self._paths:  # in the kernel's default period, CPU_PERIOD_US
            base.write_file(self._file("cpu", "cpu.cfs_quota_us"), cpu_quota_us(limits.cpus))

    def enter(self) -> None:
        for path in self._paths.values():
            _enter(path)

    @contextlib.contextmanager
    def spawn_inside(self) -> Generator[None]:
        try:
            self.enter()
            yield
        finally:
            for controller in self._paths:
                _enter(self._service_groups[controller])

    def add_process(self, pid: int) -> None:
        """Nothing to do: it started in the group."""

    def oom_killed(self) -> bool:
        control = base.read_file(self._file("memory", "memory.oom_control"))
        return base.parse_count(control, "oom_kill") > 0

    def cpu_us(self) -> int:
        paths = [self._paths[name] for name in (_CPU_ACCOUNTING, "cpu") if name in self._paths]
        nanoseconds = base.read_file(os.path.join(paths[0], "cpuacct.usage")) if paths else ""
        return int(nanoseconds or 0) // 1000

    def memory_bytes(self) -> int:
        peak = int(base.read_file(self._file("memory", "memory.max_usage_in_bytes")) or 0)
        stat = base.read_file(self._file("memory", "memory.stat"))
        # Files in a tmpfs (shmem) are part of the cache, but can't be freed.
        return max(0, peak - base.parse_count(stat, "cache") + base.parse_count(stat, "shmem"))

    def kill(self) -> None:
        """Kill all members, frozen if possible so that none forks in the meantime."""
        if "freezer" in self._paths:
            base.write_if_exists(self._file("freezer", "freezer.state"), "FROZEN")
        for pid in base.list_members(self._paths["pids"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _SIGKILL)
        if "freezer" in self._paths:
            base.write_if_exists(self._file("freezer", "freezer.state"), "THAWED")

    def remove(self) -> bool:
        if self.oom_eventfd is not None:
            os.close(self.oom_eventfd)
            self.oom_eventfd = None
        return not [path for path in self._paths.values() if not base.remove_group(path)]

    def _set_memory_limit(self, limit: int) -> None:
        """The limit of memory must not exceed that of memory with swap at any moment."""
        names = [_MEMORY, _WITH_SWAP]
        if self._memory_limit is not None and limit > self._memory_limit:
            names.reverse()
        for name in names:
            write = base.write_file if name == _MEMORY else base.write_if_exists
            write(self._file("memory", name), limit)
        self._memory_limit = limit

    def _file(self, controller: str, name: str) -> str:
        return os.path.join(self._paths[controller], name)


def detect(service: int) -> GroupFactoryV1:  # noqa: ARG001 - as in version 2
    """Raises CgroupsUnavailable with the reason."""
    if os.geteuid() != 0:
        raise CgroupsUnavailable("only root can make control groups of version 1")
    own = base.parse_own_groups(base.read_file("/proc/self/cgroup"))
    groups: dict[str, str] = {}
    for mount in base.parse_mounts(base.read_file("/proc/self/mountinfo")):
        for controller in _used_controllers(mount) & own.keys():
            groups[controller] = mount.locate(own[controller])
    if lacking := [name for name in _REQUIRED if name not in groups]:
        raise CgroupsUnavailable(f"no hierarchy of version 1 for {' and '.join(lacking)}")
    return GroupFactoryV1(dict(sorted(groups.items())))


def _used_controllers(mount: base.Mount) -> frozenset[str]:
    """The controllers for which a hierarchy is used; "cpuacct" mostly shares that of "cpu"."""
    if mount.fs_type != "cgroup":
        return frozenset()
    return mount.options.intersection(_LAYERS) or mount.options.intersection({_CPU_ACCOUNTING})


def _enter(group: str) -> None:
    """Move the calling thread."""
    base.write_file(os.path.join(group, "tasks"), 0)


def _open_oom_eventfd(memory: str) -> int | None:
    """An eventfd that is signalled when memory runs out (see the kernel's cgroup-v1/memory.rst)."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open(os.path.join(memory, "memory.oom_control")) as control:
            registration = f"{event} {control.fileno()}"
            base.write_file(os.path.join(memory, "cgroup.event_control"), registration)
    except OSError:
        os.close(event)
        return None
    return event
