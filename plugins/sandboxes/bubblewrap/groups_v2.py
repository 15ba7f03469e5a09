"""Control groups of version 2, where the service's own group is delegated to it.

As a group that has members can't give controllers to groups in it, the service's
processes move into a leaf beside the runs (systemd's "Delegate=yes" allows that).
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from appliance.domain.execution import Limits
from plugins.sandboxes.bubblewrap import groups
from plugins.sandboxes.bubblewrap.groups import NoGroups

_NEEDED = ("memory", "pids")
_WANTED = (*_NEEDED, "cpu")
_LEAF = groups.PREFIX + "service"
_LAYERS = {"memory": "cgroup_memory", "pids": "cgroup_processes", "cpu": "cgroup_cpu"}
_NO_CPU = "no control group for processors: a run may keep all of them busy"


class GroupsV2:
    """Below `home`, the group that is delegated to the service."""

    def __init__(self, home: Path) -> None:
        """Raises NoGroups if it is not ours to divide."""
        self._home = home
        self._numbers = itertools.count()
        self._top = home / groups.top_name()
        offered = groups.read(home / "cgroup.controllers").split()
        self._controllers = [name for name in _WANTED if name in offered]
        if lacking := [name for name in _NEEDED if name not in offered]:
            raise NoGroups(
                f"the service's control group has no controller for {', '.join(lacking)}"
            )
        _check_members(home)
        try:
            self._divide()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.close()
            raise NoGroups(
                f"the service's control group is not delegated to it ({error.strerror})"
            ) from error

    @property
    def tops(self) -> Sequence[Path]:
        return (self._top,)

    @property
    def layers(self) -> tuple[str, ...]:
        return (*(_LAYERS[name] for name in self._controllers), "cgroup_kill")

    @property
    def degraded(self) -> tuple[str, ...]:
        return () if "cpu" in self._controllers else (_NO_CPU,)

    def make(self, limits: Limits) -> "GroupV2":
        group = GroupV2(self._top / f"run-{next(self._numbers)}")
        try:
            group.set_up(limits, cpu="cpu" in self._controllers)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Back to one undivided group, as the service found it."""
        with contextlib.suppress(FileNotFoundError):
            groups.remove_tree(self._top)
        _switch(self._home, "-", self._controllers)
        _move(self._home / _LEAF, self._home)
        with contextlib.suppress(FileNotFoundError):
            (self._home / _LEAF).rmdir()

    def _divide(self) -> None:
        for top in groups.leftovers(self._home):
            with contextlib.suppress(OSError):  # its last process may be about to end
                groups.remove_tree(top)
        if not _is_root_group(self._home):
            (self._home / _LEAF).mkdir(exist_ok=True)
            _move(self._home, self._home / _LEAF)
        _switch(self._home, "+", self._controllers)
        self._top.mkdir(exist_ok=True)
        _switch(self._top, "+", self._controllers)


class GroupV2:
    """Implements plugins.sandboxes.bubblewrap.groups.Group."""

    alarm: int | None = None  # the kernel ends the whole group by itself

    def __init__(self, place: Path) -> None:
        self._place = place

    def set_up(self, limits: Limits, *, cpu: bool) -> None:
        """Make the folder and write the limits. Raises OSError."""
        self._place.mkdir()
        values: dict[str, int | str] = {
            "memory.max": limits.memory_bytes + groups.OWN_MEMORY,
            "memory.oom.group": 1,
            "pids.max": limits.processes + groups.OWN_PROCESSES,
        }
        if cpu:
            quota = max(1000, int(limits.cpus * groups.PERIOD_US))
            values["cpu.max"] = f"{quota} {groups.PERIOD_US}"
        for name, value in values.items():
            (self._place / name).write_text(str(value))
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            _overwrite(self._place / "memory.swap.max", "0")

    def birthplace(self) -> AbstractContextManager[None]:
        return nullcontext()

    def take_in(self, pid: int) -> None:
        (self._place / "cgroup.procs").write_text(str(pid))

    def starved(self) -> bool:
        return groups.count(groups.read(self._place / "memory.events"), "oom_kill") > 0

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # a kernel before 5.14, or gone already
            _overwrite(self._place / "cgroup.kill", "1")

    def remove(self) -> bool:
        try:
            self._place.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def available() -> GroupsV2:
    """Raises NoGroups, with the reason."""
    own = groups.own_groups(Path("/proc/self/cgroup").read_text()).get("")
    found = groups.mounts(Path("/proc/self/mountinfo").read_text())
    mount = next((each for each in found if each.kind == "cgroup2"), None)
    if own is None or mount is None:
        raise NoGroups("no control groups of version 2 are mounted")
    home = mount.path(own)
    return GroupsV2(home.parent if home.name == _LEAF else home)


def _check_members(home: Path) -> None:
    """A group that others live in too is not delegated to us, whatever its files allow."""
    strangers = set(map(int, groups.read(home / "cgroup.procs").split())) - set(_family())
    if strangers and not _is_root_group(home):
        raise NoGroups("other programs share the service's control group")


def _family() -> Iterator[int]:
    """This process and those that it started."""
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        yield pid
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += map(int, groups.read(children).split())


def _is_root_group(home: Path) -> bool:
    """The root of the whole hierarchy may have members and groups at once."""
    return not (home / "cgroup.type").exists()


def _switch(group: Path, sign: str, controllers: Sequence[str]) -> None:
    words = " ".join(sign + name for name in controllers)
    (group / "cgroup.subtree_control").write_text(words)


def _move(source: Path, target: Path) -> None:
    for pid in groups.read(source / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):  # ended in the meantime
            (target / "cgroup.procs").write_text(pid)


def _overwrite(path: Path, value: str) -> None:
    """Write to a file that must be there: elsewhere one would be made."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
