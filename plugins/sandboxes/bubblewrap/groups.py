"""Control groups: the kernel's limits for a run as a whole.

Version 2 where the service's group is delegated to it (or it is root and alone in it),
version 1 where the service is root; elsewhere none, and each process has limits of its own.
"""

import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from appliance.domain.execution import Limits

# The supervisor, bwrap, and what the kernel keeps for them.
OWN_MEMORY = 32 * 1024 * 1024
OWN_PROCESSES = 2
PERIOD_US = 100_000
PREFIX = "monkey-coder-"

_numbers = itertools.count()


class Group(Protocol):
    """The control group of one run."""

    @property
    def alarm(self) -> int | None:
        """A descriptor that becomes readable when memory runs out; None: see `starved`."""
        ...

    def birthplace(self) -> AbstractContextManager[None]:
        """What the calling thread starts in this context is born in the group, where it can be."""
        ...

    def take_in(self, pid: int) -> None:
        """Move a process into the group, if it was not born there. Raises OSError."""
        ...

    def starved(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        ...

    def kill(self) -> None:
        """Kill all that is in it, at once."""
        ...

    def remove(self) -> bool:
        """Give it up; False while the kernel still keeps it."""
        ...


class Groups(Protocol):
    """Makes the groups of one service process. `tops` hold nothing but its runs' groups."""

    @property
    def tops(self) -> Sequence[Path]: ...

    @property
    def layers(self) -> tuple[str, ...]: ...

    @property
    def degraded(self) -> tuple[str, ...]: ...

    def make(self, limits: Limits) -> Group:
        """Raises OSError."""
        ...

    def close(self) -> None:
        """Give up the groups' own parents. Raises OSError while a run is left."""
        ...


class NoGroups(Exception):
    """This machine gives us none; the message says why."""


class Mount(Struct, frozen=True):
    """A mounted hierarchy. `root` is the part of it that is to be seen at `place`."""

    kind: str
    options: frozenset[str]
    root: str
    place: Path

    def path(self, group: str) -> Path:
        """The folder of a group. Raises NoGroups if it lies outside of what is mounted."""
        inside = os.path.relpath(group, self.root)
        if inside.startswith("..") or "/.." in group:
            raise NoGroups("the service's own control group is not to be seen from here")
        return self.place / inside


def mounts(mountinfo: str) -> list[Mount]:
    """The control-group mounts of /proc/self/mountinfo (see proc_pid_mountinfo(5))."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, place = before.split(" ")[3:5]
        if kind in ("cgroup", "cgroup2"):
            found.append(Mount(kind, frozenset(options.split(",")), root, Path(place)))
    return found


def own_groups(lines: str) -> dict[str, str]:
    """The group in each hierarchy by controller, from /proc/self/cgroup; version 2 under ""."""
    found: dict[str, str] = {}
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def top_name() -> str:
    """A new name that tells which process it belongs to, also once the number is another's."""
    return f"{PREFIX}{os.getpid()}-{_begun(os.getpid())}-{next(_numbers)}"


def leftovers(parent: Path) -> list[Path]:
    """Groups in `parent` of service processes that are gone."""
    return [path for path in parent.glob(f"{PREFIX}*-*") if not _owner_lives(path)]


def remove_tree(top: Path) -> None:
    """Remove a group and those in it. Raises OSError while processes are left."""
    for inner in top.iterdir():
        if inner.is_dir():
            remove_tree(inner)
    top.rmdir()


def read(path: Path) -> str:
    """What a control file says; "" if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def count(text: str, name: str) -> int:
    """The number behind a name, in a file of such lines; 0 if it is not there."""
    words = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
    return int(words.get(name, "0"))


def _owner_lives(top: Path) -> bool:
    try:
        pid, begun, _ = (int(word) for word in top.name.removeprefix(PREFIX).split("-"))
    except ValueError:
        return True  # not of our making
    return _begun(pid) == begun


def _begun(pid: int) -> int:
    """When a process began, in ticks since the machine did; -1 if there is none."""
    fields = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[19]) if fields else -1
