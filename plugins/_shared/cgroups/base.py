"""Control groups: the kernel's limits for a run as a whole.

Version 2 where the service's group is delegated to it (or it is root and alone in it),
version 1 where the service is root; elsewhere none, and each process has limits of its own.

Part of the launcher, and so without pathlib: what it imports it keeps in memory.
"""

# ruff: noqa: PTH106, PTH118
import contextlib
import os

TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Protocol
else:
    Protocol = object

# The supervisor, bwrap, and what the kernel keeps for them.
OWN_MEMORY = 32 * 1024 * 1024
OWN_PROCESSES = 2
PREFIX = "monkey-coder-"

_READ_BYTES = 65536


class Limited(Protocol):
    """What a group's limits are taken from, such as appliance.domain.execution.Limits."""

    @property
    def memory_bytes(self) -> int: ...

    @property
    def processes(self) -> int: ...

    @property
    def cpus(self) -> float: ...


class Group(Protocol):
    """The control group of one run."""

    @property
    def alarm(self) -> int | None:
        """A descriptor that becomes readable when memory runs out; None: see `starved`."""
        ...

    def limit(self, limits: Limited) -> None:
        """Set or change what it may use. Raises OSError."""
        ...

    def step_in(self) -> None:
        """Move the calling process, which has one thread, into the group. Raises OSError."""
        ...

    def birthplace(self) -> "AbstractContextManager[None]":
        """What the calling thread starts in this context is born in the group, where it can be."""
        ...

    def take_in(self, pid: int) -> None:
        """Move a process into the group, if it was not born there. Raises OSError."""
        ...

    def starved(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        ...

    def cpu_us(self) -> int:
        """Microseconds of processor that all in it has used; 0 if the kernel keeps no account."""
        ...

    def memory_bytes(self) -> int:
        """The most memory that all in it had at once; 0 if the kernel does not tell.

        What is kept of files on disks is left out: it gives way before anything is killed.
        A kernel that keeps no highest mark tells what there is now: ask before a kill, too.
        """
        ...

    def kill(self) -> None:
        """Kill all that is in it, at once."""
        ...

    def remove(self) -> bool:
        """Give it up; False while the kernel still keeps it."""
        ...


class Groups(Protocol):
    """Makes the groups of one launcher's runs."""

    @property
    def layers(self) -> tuple[str, ...]: ...

    @property
    def degraded(self) -> tuple[str, ...]: ...

    def make(self, limits: Limited) -> Group:
        """Raises OSError."""
        ...

    def close(self) -> bool:
        """Remove all of them, and end what is in them; False while one is left."""
        ...


class NoGroups(Exception):
    """This machine gives us none; the message says why."""


class Mount:
    """A mounted hierarchy. `root` is the part of it that is to be seen at `place`."""

    def __init__(self, kind: str, options: frozenset[str], root: str, place: str) -> None:
        self.kind = kind
        self.options = options
        self.root = root
        self.place = place

    def path(self, group: str) -> str:
        """The folder of a group. Raises NoGroups if it lies outside of what is mounted."""
        inside = os.path.relpath(group, self.root)
        if inside.startswith("..") or "/.." in group:
            raise NoGroups("the service's own control group is not to be seen from here")
        return os.path.normpath(os.path.join(self.place, inside))


def mounts(mountinfo: str) -> list[Mount]:
    """The control-group mounts of /proc/self/mountinfo (see proc_pid_mountinfo(5))."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, place = before.split(" ")[3:5]
        if kind in ("cgroup", "cgroup2"):
            found.append(Mount(kind, frozenset(options.split(",")), root, place))
    return found


def own_groups(lines: str) -> dict[str, str]:
    """The group in each hierarchy by controller, from /proc/self/cgroup; version 2 under ""."""
    found: dict[str, str] = {}
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def members(group: str) -> list[int]:
    """The processes in it that can be seen from here.

    Any other is told as 0, which to be killed would mean the caller's own.
    """
    found = map(int, read(os.path.join(group, "cgroup.procs")).split())
    return [pid for pid in found if pid > 0]


def remove(path: str) -> bool:
    """Whether the group is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def read(path: str) -> str:
    """What a control file says; "" if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return b"".join(iter(lambda: os.read(fd, _READ_BYTES), b"")).decode()
    except OSError:
        return ""
    finally:
        os.close(fd)


def write(path: str, value: object) -> None:
    """Write to a control file. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def write_if_there(path: str, value: object) -> None:
    """For what a kernel may have been built without: the other limits hold all the same."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY)  # one that is not there must not be made
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)


def count(text: str, name: str) -> int:
    """The number behind a name, in a file of such lines; 0 if it is not there."""
    words = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
    return int(words.get(name, "0"))
