"""Control groups of version 2, where the service's own group is delegated to it.

A group with members can't enable controllers for its child groups. So the service's processes are
moved to a child group of their own, beside the groups of the runs (systemd's "Delegate=yes"
allows that).
"""

# ruff: noqa: PTH102, PTH103, PTH110, PTH118, PTH119, PTH120
import contextlib
import errno
import itertools
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from plugins._shared.cgroups import base, stale
from plugins._shared.cgroups.base import (
    CPU_PERIOD_US,
    CgroupsUnavailable,
    GroupLimits,
    cpu_quota_us,
)

_REQUIRED = ("memory", "pids")
_CONTROLLERS = (*_REQUIRED, "cpu")
_LEAF = base.PREFIX + "service"
_LAYERS = {"memory": "cgroup_memory", "pids": "cgroup_processes", "cpu": "cgroup_cpu"}
# These occur while another service divides the same group, or undoes that.
_TRANSIENT = (errno.ENOENT, errno.EBUSY)
_ATTEMPTS, _PAUSE_S = 20, 0.02
_DEGRADED_CPU = "no control group for processors: a run can use all of them"


class GroupFactoryV2:
    """Makes groups below `service_group`, which is delegated to the process `service`."""

    def __init__(self, service_group: str, service: int) -> None:
        """Raises CgroupsUnavailable if that group can't be divided."""
        self._service_group = service_group
        self._leaf = os.path.join(service_group, _LEAF)
        self._numbers = itertools.count()
        self._parent = os.path.join(service_group, stale.new_parent_name())
        self._lock: int | None = None
        offered = base.read_file(os.path.join(service_group, "cgroup.controllers")).split()
        self._controllers = [name for name in _CONTROLLERS if name in offered]
        if lacking := [name for name in _REQUIRED if name not in offered]:
            raise CgroupsUnavailable(
                f"the service's control group has no controller for {', '.join(lacking)}"
            )
        _check_members(service_group, service)
        try:
            self._divide_with_retries()
        except OSError as error:
            self.close()
            raise CgroupsUnavailable(
                f"the service's control group is not delegated to it ({error.strerror})"
            ) from error

    @property
    def layers(self) -> tuple[str, ...]:
        return (*(_LAYERS[name] for name in self._controllers), "cgroup_kill")

    @property
    def degraded(self) -> tuple[str, ...]:
        return () if "cpu" in self._controllers else (_DEGRADED_CPU,)

    def create(self, limits: GroupLimits) -> "GroupV2":
        path = os.path.join(self._parent, f"run-{next(self._numbers)}")
        group = GroupV2(path, cpu="cpu" in self._controllers)
        try:
            group.set_up(limits)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> bool:
        """Kill all members and undo the division, unless another service uses it too."""
        if not stale.remove_tree(self._parent):
            return False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with contextlib.suppress(OSError):
            stale.remove_stale(self._service_group)
            _set_controllers(self._service_group, "-", self._controllers)
            _move_processes(self._leaf, self._service_group)
            base.remove_group(self._leaf)
        return True

    def _divide_with_retries(self) -> None:
        for remaining in reversed(range(_ATTEMPTS)):
            try:
                self._divide()
            except OSError as error:
                if error.errno not in _TRANSIENT or not remaining:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _divide(self) -> None:
        stale.remove_stale(self._service_group)
        if not _is_root_group(self._service_group):
            os.makedirs(self._leaf, exist_ok=True)
            _move_processes(self._service_group, self._leaf)
        _set_controllers(self._service_group, "+", self._controllers)
        os.makedirs(self._parent, exist_ok=True)
        if self._lock is None:
            self._lock = stale.lock_group(self._parent)
        _set_controllers(self._parent, "+", self._controllers)


class GroupV2:
    """Implements base.Group."""

    oom_eventfd: int | None = None  # not needed: the kernel kills the whole group

    def __init__(self, path: str, *, cpu: bool) -> None:
        self._path = path
        self._cpu = cpu

    def set_up(self, limits: GroupLimits) -> None:
        """Make the group and set the limits. Raises OSError."""
        os.mkdir(self._path)
        base.write_file(self._file("memory.oom.group"), 1)
        base.write_if_exists(self._file("memory.swap.max"), 0)  # a kernel may have no swap
        self.set_limits(limits)

    def set_limits(self, limits: GroupLimits) -> None:
        base.write_file(self._file("memory.max"), limits.memory_bytes + base.OWN_MEMORY)
        base.write_file(self._file("pids.max"), limits.processes + base.OWN_PROCESSES)
        if self._cpu:
            base.write_file(self._file("cpu.max"), f"{cpu_quota_us(limits.cpus)} {CPU_PERIOD_US}")

    def enter(self) -> None:
        self.add_process(0)

    def spawn_inside(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def add_process(self, pid: int) -> None:
        base.write_file(self._file("cgroup.procs"), pid)

    def oom_killed(self) -> bool:
        return base.parse_count(base.read_file(self._file("memory.events")), "oom_kill") > 0

    def cpu_us(self) -> int:
        return base.parse_count(base.read_file(self._file("cpu.stat")), "usage_usec")

    def memory_bytes(self) -> int:
        peak = self._peak_bytes()
        stat = base.read_file(self._file("memory.stat"))
        # Files in a tmpfs (shmem) are among the cached files, but can't be freed.
        return max(0, peak - base.parse_count(stat, "file") + base.parse_count(stat, "shmem"))

    def kill(self) -> None:
        base.write_if_exists(self._file("cgroup.kill"), 1)  # from Linux 5.14 on

    def remove(self) -> bool:
        return base.remove_group(self._path)

    def _peak_bytes(self) -> int:
        """Before Linux 5.19, the peak is known only if it reached the limit."""
        names = ("memory.peak", "memory.max" if self.oom_killed() else "memory.current")
        texts = (base.read_file(self._file(name)) for name in names)
        return next((int(text) for text in texts if text), 0)

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


def detect(service: int) -> GroupFactoryV2:
    """Raises CgroupsUnavailable with the reason."""
    own = base.parse_own_groups(base.read_file("/proc/self/cgroup")).get("")
    mounts = base.parse_mounts(base.read_file("/proc/self/mountinfo"))
    mount = next((each for each in mounts if each.fs_type == "cgroup2"), None)
    if own is None or mount is None:
        raise CgroupsUnavailable("no control groups of version 2 are mounted")
    group = mount.locate(own)
    if os.path.basename(group) == _LEAF:  # the service has been moved already
        group = os.path.dirname(group)
    return GroupFactoryV2(group, service)


def _check_members(group: str, service: int) -> None:
    """A group with other members is not delegated to this service, whatever its files permit."""
    members = map(int, base.read_file(os.path.join(group, "cgroup.procs")).split())
    others = set(members) - set(stale.list_service_processes(service))
    if others and not _is_root_group(group):
        raise CgroupsUnavailable("other programs share the service's control group")


def _is_root_group(group: str) -> bool:
    """The hierarchy's root may have both members and child groups."""
    return not os.path.exists(os.path.join(group, "cgroup.type"))


def _set_controllers(group: str, sign: str, controllers: Sequence[str]) -> None:
    words = " ".join(sign + name for name in controllers)
    base.write_file(os.path.join(group, "cgroup.subtree_control"), words)


def _move_processes(source: str, target: str) -> None:
    for pid in base.read_file(os.path.join(source, "cgroup.procs")).split():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            base.write_file(os.path.join(target, "cgroup.procs"), pid)
