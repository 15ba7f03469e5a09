"""Control groups of version 2, where the service's own group is delegated to it.

As a group that has members can't give controllers to groups in it, the service's
processes move into a leaf beside the runs (systemd's "Delegate=yes" allows that).
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
from plugins._shared.cgroups.base import Limited, NoGroups
from plugins._shared.cgroups.cpu_quota import PERIOD_US, cpu_quota_us
from plugins._shared.cgroups.process_family import family

_NEEDED = ("memory", "pids")
_WANTED = (*_NEEDED, "cpu")
_LEAF = base.PREFIX + "service"
_LAYERS = {"memory": "cgroup_memory", "pids": "cgroup_processes", "cpu": "cgroup_cpu"}
# Another service may just be dividing the group, or giving it back.
_PASSING = (errno.ENOENT, errno.EBUSY)
_TRIES, _PAUSE_S = 20, 0.02
_NO_CPU = "no control group for processors: a run may keep all of them busy"


class GroupsV2:
    """Below `home`, the group that is delegated to the process `service`."""

    def __init__(self, home: str, service: int) -> None:
        """Raises NoGroups if it is not ours to divide."""
        self._home = home
        self._leaf = os.path.join(home, _LEAF)
        self._numbers = itertools.count()
        self._top = os.path.join(home, stale.top_name())
        self._claim: int | None = None
        offered = base.read(os.path.join(home, "cgroup.controllers")).split()
        self._controllers = [name for name in _WANTED if name in offered]
        if lacking := [name for name in _NEEDED if name not in offered]:
            raise NoGroups(
                f"the service's control group has no controller for {', '.join(lacking)}"
            )
        _check_members(home, service)
        try:
            self._divide_patiently()
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
        if not stale.remove_tree(self._top):
            return False
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None
        with contextlib.suppress(OSError):
            stale.sweep(self._home)
            _switch(self._home, "-", self._controllers)
            _move(self._leaf, self._home)
            base.remove(self._leaf)
        return True

    def _divide_patiently(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self._divide()
            except OSError as error:
                if error.errno not in _PASSING or not left:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _divide(self) -> None:
        stale.sweep(self._home)
        if not _is_root_group(self._home):
            os.makedirs(self._leaf, exist_ok=True)
            _move(self._home, self._leaf)
        _switch(self._home, "+", self._controllers)
        os.makedirs(self._top, exist_ok=True)
        if self._claim is None:
            self._claim = stale.claim(self._top)
        _switch(self._top, "+", self._controllers)


class GroupV2:
    """Implements plugins._shared.cgroups.base.Group."""

    alarm: int | None = None  # the kernel ends the whole group by itself

    def __init__(self, place: str, *, cpu: bool) -> None:
        self._place = place
        self._cpu = cpu

    def set_up(self, limits: Limited) -> None:
        """Make the folder and write the limits. Raises OSError."""
        os.mkdir(self._place)
        base.write(self._file("memory.oom.group"), 1)
        base.write_if_there(self._file("memory.swap.max"), 0)  # a kernel may have no swap
        self.limit(limits)

    def limit(self, limits: Limited) -> None:
        base.write(self._file("memory.max"), limits.memory_bytes + base.OWN_MEMORY)
        base.write(self._file("pids.max"), limits.processes + base.OWN_PROCESSES)
        if self._cpu:
            base.write(self._file("cpu.max"), f"{cpu_quota_us(limits.cpus)} {PERIOD_US}")

    def step_in(self) -> None:
        self.take_in(0)

    def birthplace(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def take_in(self, pid: int) -> None:
        base.write(self._file("cgroup.procs"), pid)

    def starved(self) -> bool:
        return base.count(base.read(self._file("memory.events")), "oom_kill") > 0

    def cpu_us(self) -> int:
        return base.count(base.read(self._file("cpu.stat")), "usage_usec")

    def memory_bytes(self) -> int:
        told = base.read(self._file("memory.stat"))
        # To be found in a tmpfs is to be a file, too, but of that nothing gives way.
        return max(0, self._most() - base.count(told, "file") + base.count(told, "shmem"))

    def kill(self) -> None:
        base.write_if_there(self._file("cgroup.kill"), 1)  # from Linux 5.14 on

    def remove(self) -> bool:
        return base.remove(self._place)

    def _most(self) -> int:
        """Before Linux 5.19 the highest mark is known only of a group that was full."""
        names = ("memory.peak", "memory.max" if self.starved() else "memory.current")
        return next((int(told) for name in names if (told := base.read(self._file(name)))), 0)

    def _file(self, name: str) -> str:
        return os.path.join(self._place, name)


def available(service: int) -> GroupsV2:
    """For the process `service` and those that it started. Raises NoGroups, with the reason."""
    own = base.own_groups(base.read("/proc/self/cgroup")).get("")
    found = base.mounts(base.read("/proc/self/mountinfo"))
    mount = next((each for each in found if each.kind == "cgroup2"), None)
    if own is None or mount is None:
        raise NoGroups("no control groups of version 2 are mounted")
    home = mount.path(own)
    return GroupsV2(os.path.dirname(home) if os.path.basename(home) == _LEAF else home, service)


def _check_members(home: str, service: int) -> None:
    """A group that others live in too is not delegated to us, whatever its files allow."""
    members = map(int, base.read(os.path.join(home, "cgroup.procs")).split())
    strangers = set(members) - set(family(service))
    if strangers and not _is_root_group(home):
        raise NoGroups("other programs share the service's control group")


def _is_root_group(home: str) -> bool:
    """The root of the whole hierarchy may have members and groups at once."""
    return not os.path.exists(os.path.join(home, "cgroup.type"))


def _switch(group: str, sign: str, controllers: Sequence[str]) -> None:
    words = " ".join(sign + name for name in controllers)
    base.write(os.path.join(group, "cgroup.subtree_control"), words)


def _move(source: str, target: str) -> None:
    for pid in base.read(os.path.join(source, "cgroup.procs")).split():
        with contextlib.suppress(ProcessLookupError):  # ended in the meantime
            base.write(os.path.join(target, "cgroup.procs"), pid)
