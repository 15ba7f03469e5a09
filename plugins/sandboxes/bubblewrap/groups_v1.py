"""Control groups of version 1, which only root may make.

There is one hierarchy per controller, each with a group of its own for a run. A thread
may move by itself, so the one that starts the runs steps into a run's groups, starts
bwrap there, and steps out again: moving the new process instead would cost milliseconds.
"""

import contextlib
import itertools
import os
import signal
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from appliance.domain.execution import Limits
from plugins.sandboxes.bubblewrap import groups
from plugins.sandboxes.bubblewrap.groups import NoGroups

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


class GroupsV1:
    """Below the service's own group in each hierarchy."""

    def __init__(self, homes: Mapping[str, Path]) -> None:
        """`homes` are the service's own groups by controller. Raises NoGroups."""
        self._homes = dict(homes)
        self._numbers = itertools.count()
        name = groups.top_name()
        self._tops = {controller: home / name for controller, home in homes.items()}
        try:
            for home in homes.values():
                _sweep(home)
            for top in self._tops.values():
                top.mkdir(exist_ok=True)
        except OSError as error:
            raise NoGroups(f"control groups can't be made ({error.strerror})") from error

    @property
    def tops(self) -> Sequence[Path]:
        return tuple(self._tops.values())

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layer for name, layer in _LAYERS.items() if name in self._tops)

    @property
    def degraded(self) -> tuple[str, ...]:
        return tuple(lack for name, lack in _MISSING.items() if name not in self._tops)

    def make(self, limits: Limits) -> "GroupV1":
        name = f"run-{next(self._numbers)}"
        places = {controller: top / name for controller, top in self._tops.items()}
        group = GroupV1(places, self._homes)
        try:
            group.set_up(limits)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        for top in self._tops.values():
            with contextlib.suppress(FileNotFoundError):
                groups.remove_tree(top)


class GroupV1:
    """Implements plugins.sandboxes.bubblewrap.groups.Group."""

    def __init__(self, places: Mapping[str, Path], homes: Mapping[str, Path]) -> None:
        self.alarm: int | None = None
        self._places = places
        self._homes = homes

    def set_up(self, limits: Limits) -> None:
        """Make the folders and write the limits. Raises OSError."""
        for place in self._places.values():
            place.mkdir()
        memory = self._places["memory"]
        room = limits.memory_bytes + groups.OWN_MEMORY
        (memory / "memory.limit_in_bytes").write_text(str(room))
        _write_if_there(memory / "memory.memsw.limit_in_bytes", room)
        _write_if_there(memory / "memory.swappiness", 0)
        processes = limits.processes + groups.OWN_PROCESSES
        (self._places["pids"] / "pids.max").write_text(str(processes))
        if cpu := self._places.get("cpu"):
            (cpu / "cpu.cfs_period_us").write_text(str(groups.PERIOD_US))
            quota = max(1000, int(limits.cpus * groups.PERIOD_US))
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        self.alarm = _alarm(memory)

    @contextlib.contextmanager
    def birthplace(self) -> Generator[None]:
        try:
            for place in self._places.values():
                _step_into(place)
            yield
        finally:
            for controller in self._places:
                _step_into(self._homes[controller])

    def take_in(self, pid: int) -> None:
        """Born here already."""

    def starved(self) -> bool:
        return (
            groups.count(groups.read(self._places["memory"] / "memory.oom_control"), "oom_kill") > 0
        )

    def kill(self) -> None:
        """Frozen first where that is possible: what forks can't outrun what kills it."""
        freezer = self._places.get("freezer")
        if freezer is not None:
            _write_if_there(freezer / "freezer.state", "FROZEN")
        for pid in groups.read(self._places["pids"] / "cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if freezer is not None:
            _write_if_there(freezer / "freezer.state", "THAWED")

    def remove(self) -> bool:
        if self.alarm is not None:
            os.close(self.alarm)
            self.alarm = None
        gone = True
        for place in self._places.values():
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


def available() -> GroupsV1:
    """Raises NoGroups, with the reason."""
    if os.geteuid() != 0:
        raise NoGroups("only root can make control groups of version 1")
    own = groups.own_groups(Path("/proc/self/cgroup").read_text())
    homes: dict[str, Path] = {}
    for mount in groups.mounts(Path("/proc/self/mountinfo").read_text()):
        for controller in (
            mount.options.intersection(_LAYERS, own) if mount.kind == "cgroup" else ()
        ):
            homes[controller] = mount.path(own[controller])
    if lacking := [name for name in _NEEDED if name not in homes]:
        raise NoGroups(f"no hierarchy of version 1 for {' and '.join(lacking)}")
    return GroupsV1(dict(sorted(homes.items())))


def _sweep(home: Path) -> None:
    """Remove what services that were killed have left."""
    for top in groups.leftovers(home):
        with contextlib.suppress(OSError):  # its last process may be about to end
            groups.remove_tree(top)


def _step_into(group: Path) -> None:
    """Move the calling thread."""
    (group / "tasks").write_text("0")


def _write_if_there(path: Path, value: object) -> None:
    """For what a kernel may have been built without: the other limits hold all the same."""
    with contextlib.suppress(OSError):
        path.write_text(str(value))


def _alarm(memory: Path) -> int | None:
    """An eventfd that is told of each time that memory runs out (cgroup-v1/memory.rst, 9)."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with (memory / "memory.oom_control").open() as control:
            (memory / "cgroup.event_control").write_text(f"{event} {control.fileno()}")
    except OSError:
        os.close(event)
        return None
    return event
