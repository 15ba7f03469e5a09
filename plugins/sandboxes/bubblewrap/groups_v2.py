"""Control groups of version 2, where the service's own group is delegated to it.

As a group that has members can't give controllers to groups in it, the service's
processes move into a leaf beside the runs (systemd's "Delegate=yes" allows that).
"""

# ruff: noqa: PTH102, PTH103, PTH110, PTH115, PTH118, PTH119, PTH120, PTH208
import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from plugins.sandboxes.bubblewrap import groups
from plugins.sandboxes.bubblewrap.bounds import PERIOD_US, cpu_quota_us
from plugins.sandboxes.bubblewrap.groups import Limited, NoGroups

_NEEDED = ("memory", "pids")
_WANTED = (*_NEEDED, "cpu")
_LEAF = groups.PREFIX + "service"
_LAYERS = {"memory": "cgroup_memory", "pids": "cgroup_processes", "cpu": "cgroup_cpu"}
_NO_CPU = "no control group for processors: a run may keep all of them busy"


class GroupsV2:
    """Below `home`, the group that is delegated to the process `service`."""

    def __init__(self, home: str, service: int) -> None:
        """Raises NoGroups if it is not ours to divide."""
        self._home = home
        self._leaf = os.path.join(home, _LEAF)
        self._numbers = itertools.count()
        self._top = os.path.join(home, groups.top_name())
        offered = groups.read(os.path.join(home, "cgroup.controllers")).split()
        self._controllers = [name for name in _WANTED if name in offered]
        if lacking := [name for name in _NEEDED if name not in offered]:
            raise NoGroups(
                f"the service's control group has no controller for {', '.join(lacking)}"
            )
        _check_members(home, service)
        try:
            self._divide()
        except OSError as error:
            self.close()
            raise NoGroups(
                f"the service's control group is not delegated to it ({error.strerror})"
            ) from error

    @property
    def layers(self) -> tuple[str, ...]:
        return (*(_LAYERS[name] for name in self._controllers), "cgroup_kill")

    @property
    def degraded(self) -> tuple[str, ...]:
        return () if "cpu" in self._controllers else (_NO_CPU,)

    def make(self, limits: Limited) -> "GroupV2":
        place = os.path.join(self._top, f"run-{next(self._numbers)}")
        group = GroupV2(place, cpu="cpu" in self._controllers)
        try:
            group.set_up(limits)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> bool:
        """Back to one undivided group, as the service found it, if nobody else divides it."""
        if not groups.remove_tree(self._top):
            return False
        with contextlib.suppress(OSError):
            groups.sweep(self._home)
            _switch(self._home, "-", self._controllers)
            _move(self._leaf, self._home)
            groups.remove(self._leaf)
        return True

    def _divide(self) -> None:
        groups.sweep(self._home)
        if not _is_root_group(self._home):
            os.makedirs(self._leaf, exist_ok=True)
            _move(self._home, self._leaf)
        _switch(self._home, "+", self._controllers)
        os.makedirs(self._top, exist_ok=True)
        _switch(self._top, "+", self._controllers)


class GroupV2:
    """Implements plugins.sandboxes.bubblewrap.groups.Group."""

    alarm: int | None = None  # the kernel ends the whole group by itself

    def __init__(self, place: str, *, cpu: bool) -> None:
        self._place = place
        self._cpu = cpu

    def set_up(self, limits: Limited) -> None:
        """Make the folder and write the limits. Raises OSError."""
        os.mkdir(self._place)
        groups.write(self._file("memory.oom.group"), 1)
        groups.write_if_there(self._file("memory.swap.max"), 0)  # a kernel may have no swap
        self.limit(limits)

    def limit(self, limits: Limited) -> None:
        groups.write(self._file("memory.max"), limits.memory_bytes + groups.OWN_MEMORY)
        groups.write(self._file("pids.max"), limits.processes + groups.OWN_PROCESSES)
        if self._cpu:
            groups.write(self._file("cpu.max"), f"{cpu_quota_us(limits.cpus)} {PERIOD_US}")

    def step_in(self) -> None:
        self.take_in(0)

    def birthplace(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def take_in(self, pid: int) -> None:
        groups.write(self._file("cgroup.procs"), pid)

    def starved(self) -> bool:
        return groups.count(groups.read(self._file("memory.events")), "oom_kill") > 0

    def cpu_us(self) -> int:
        return groups.count(groups.read(self._file("cpu.stat")), "usage_usec")

    def kill(self) -> None:
        groups.write_if_there(self._file("cgroup.kill"), 1)  # from Linux 5.14 on

    def remove(self) -> bool:
        return groups.remove(self._place)

    def _file(self, name: str) -> str:
        return os.path.join(self._place, name)


def available(service: int) -> GroupsV2:
    """For the process `service` and those that it started. Raises NoGroups, with the reason."""
    own = groups.own_groups(groups.read("/proc/self/cgroup")).get("")
    found = groups.mounts(groups.read("/proc/self/mountinfo"))
    mount = next((each for each in found if each.kind == "cgroup2"), None)
    if own is None or mount is None:
        raise NoGroups("no control groups of version 2 are mounted")
    home = mount.path(own)
    return GroupsV2(os.path.dirname(home) if os.path.basename(home) == _LEAF else home, service)


def _check_members(home: str, service: int) -> None:
    """A group that others live in too is not delegated to us, whatever its files allow."""
    members = map(int, groups.read(os.path.join(home, "cgroup.procs")).split())
    strangers = set(members) - set(_family(service))
    if strangers and not _is_root_group(home):
        raise NoGroups("other programs share the service's control group")


def _family(service: int) -> Iterator[int]:
    """The service and those that it started.

    The executable's first process only unpacks and waits for the service, its child.
    """
    parent = int(groups.read(f"/proc/{service}/stat").rpartition(")")[2].split()[1])
    unpacked = getattr(sys, "frozen", False) and _program(parent) == _program(service)
    todo = [parent if unpacked else service]
    while todo:
        pid = todo.pop()
        yield pid
        with contextlib.suppress(FileNotFoundError):  # it ended while we looked
            for thread in os.listdir(f"/proc/{pid}/task"):
                children = groups.read(f"/proc/{pid}/task/{thread}/children")
                todo += map(int, children.split())


def _program(pid: int) -> str:
    """The file that a process runs; its own number if that can't be seen."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return str(pid)


def _is_root_group(home: str) -> bool:
    """The root of the whole hierarchy may have members and groups at once."""
    return not os.path.exists(os.path.join(home, "cgroup.type"))


def _switch(group: str, sign: str, controllers: Sequence[str]) -> None:
    words = " ".join(sign + name for name in controllers)
    groups.write(os.path.join(group, "cgroup.subtree_control"), words)


def _move(source: str, target: str) -> None:
    for pid in groups.read(os.path.join(source, "cgroup.procs")).split():
        with contextlib.suppress(ProcessLookupError):  # ended in the meantime
            groups.write(os.path.join(target, "cgroup.procs"), pid)
