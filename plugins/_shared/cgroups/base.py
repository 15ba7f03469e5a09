"""Control groups, by which the kernel limits a run as a whole: what both versions share.

Version 2 is used where the service's group is delegated to it (or it is root and alone in it),
version 1 where the service is root. Elsewhere there are none, and each process has limits of
its own.

The launcher imports this, and what it imports stays in memory: no pathlib.
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

# Added to a run's limits, for the init process, bwrap, and the kernel's memory for them.
OWN_MEMORY = 32 * 1024 * 1024
OWN_PROCESSES = 2
PREFIX = "monkey-coder-"

CPU_PERIOD_US = 100_000
"""Period of the CPU quota, in microseconds: the kernel's default for a new group."""

_MIN_CPU_QUOTA_US = 1000
_READ_BYTES = 65536


class GroupLimits(Protocol):
    """The limits of a group; appliance.domain.execution.Limits has these fields."""

    @property
    def memory_bytes(self) -> int: ...

    @property
    def processes(self) -> int: ...

    @property
    def cpus(self) -> float: ...


class Group(Protocol):
    """The control group of one run."""

    @property
    def oom_eventfd(self) -> int | None:
        """A descriptor that becomes readable when memory runs out; None: call `oom_killed`."""
        ...

    def set_limits(self, limits: GroupLimits) -> None:
        """Set or change the limits. Raises OSError."""
        ...

    def enter(self) -> None:
        """Move this process, which has one thread, into the group. Raises OSError."""
        ...

    def spawn_inside(self) -> "AbstractContextManager[None]":
        """Context in which this thread's new processes start in the group, where possible."""
        ...

    def add_process(self, pid: int) -> None:
        """Move a process into the group, unless `spawn_inside` did. Raises OSError."""
        ...

    def oom_killed(self) -> bool:
        """Whether the kernel killed a member because the group was out of memory."""
        ...

    def cpu_us(self) -> int:
        """CPU time that its members have used, in microseconds; 0 if the kernel does not count."""
        ...

    def memory_bytes(self) -> int:
        """Peak memory of all members together, without cached files; 0 if unknown.

        Cached files are left out since the kernel frees them before it kills. A kernel that
        records no peak returns the present amount: call it before a kill, too.
        """
        ...

    def kill(self) -> None:
        """Kill all members."""
        ...

    def remove(self) -> bool:
        """Remove the group; False while the kernel still keeps it."""
        ...


class GroupFactory(Protocol):
    """Makes the groups of one service's runs."""

    @property
    def layers(self) -> tuple[str, ...]: ...

    @property
    def degraded(self) -> tuple[str, ...]: ...

    def create(self, limits: GroupLimits) -> Group:
        """Make a group with these limits. Raises OSError."""
        ...

    def close(self) -> bool:
        """Kill all members and remove all groups; False while one is left."""
        ...


class CgroupsUnavailable(Exception):
    """The service can make no groups on this machine; the message says why."""


class Mount:
    """A mounted hierarchy: its group `root` is visible at `mount_point`."""

    def __init__(self, fs_type: str, options: frozenset[str], root: str, mount_point: str) -> None:
        self.fs_type = fs_type
        self.options = options
        self.root = root
        self.mount_point = mount_point

    def locate(self, group: str) -> str:
        """The folder of a group. Raises CgroupsUnavailable if it is not below `root`."""
        relative = os.path.relpath(group, self.root)
        if relative.startswith("..") or "/.." in group:
            raise CgroupsUnavailable("the service's own control group is not visible from here")
        return os.path.normpath(os.path.join(self.mount_point, relative))


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The control-group mounts of /proc/self/mountinfo (see proc_pid_mountinfo(5))."""
    result: list[Mount] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fs_type, _, options = after.split(" ", 2)
        root, mount_point = before.split(" ")[3:5]
        if fs_type in ("cgroup", "cgroup2"):
            result.append(Mount(fs_type, frozenset(options.split(",")), root, mount_point))
    return result


def parse_own_groups(lines: str) -> dict[str, str]:
    """Groups by controller, from /proc/self/cgroup; the group of version 2 has the key ""."""
    result: dict[str, str] = {}
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        result |= dict.fromkeys(controllers.split(","), path)
    return result


def list_members(group: str) -> list[int]:
    """The visible members of a group.

    The kernel lists members of other process namespaces as 0, which in kill(2) means the
    caller's own process group.
    """
    members = map(int, read_file(os.path.join(group, "cgroup.procs")).split())
    return [pid for pid in members if pid > 0]


def remove_group(path: str) -> bool:
    """Remove an empty group; return whether it no longer exists."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def read_file(path: str) -> str:
    """The content of a control file; "" if it can't be read."""
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


def write_file(path: str, value: object) -> None:
    """Write to a control file. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def write_if_exists(path: str, value: object) -> None:
    """Write to a control file that not every kernel has; errors are ignored."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY)  # without O_CREAT
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)


def parse_count(text: str, name: str) -> int:
    """The number after a name, in lines of "name number"; 0 if the name is missing."""
    counts = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
    return int(counts.get(name, "0"))


def cpu_quota_us(cpus: float) -> int:
    """CPU time that a group may use in each CPU_PERIOD_US (CFS bandwidth control)."""
    return max(_MIN_CPU_QUOTA_US, int(cpus * CPU_PERIOD_US))
