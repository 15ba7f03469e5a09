"""Who owns a control group: which process made it, and which processes belong to the service.

The groups of a service are below a parent group whose name holds the process id and start time of
the process that made it. That process also holds a lock on the parent's folder, for others that
can't see it. A group whose owner has ended is stale, and is removed with all its members.
"""

# ruff: noqa: PTH115, PTH118, PTH208
import contextlib
import fcntl
import itertools
import os
import sys
from collections.abc import Iterator

from plugins._shared.cgroups import base

_SIGKILL = 9
_numbers = itertools.count()


def new_parent_name() -> str:
    """A new name for a parent group of this process."""
    return f"{base.PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{next(_numbers)}"


def lock_group(parent: str) -> int:
    """Lock a parent group while the returned descriptor is open.

    Another service may not see this process, if it is another user's or in another process
    namespace, but it sees the lock. Raises OSError.
    """
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(BlockingIOError):  # whoever holds the lock does not remove it either
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def remove_stale(service_group: str) -> None:
    """Remove the stale parent groups in this group, and kill their members."""
    for parent in find_stale(service_group):
        remove_tree(parent)


def find_stale(service_group: str) -> list[str]:
    names = [name for name in os.listdir(service_group) if name.startswith(base.PREFIX)]
    orphans = [os.path.join(service_group, name) for name in names if not _owner_is_alive(name)]
    return [parent for parent in orphans if not _is_locked(parent)]


def remove_tree(group: str) -> bool:
    """Kill all members of a group and those in it, and remove them; False if one is left."""
    try:
        inner = [entry.path for entry in os.scandir(group) if entry.is_dir()]
    except FileNotFoundError:
        return True
    all_removed = [path for path in inner if not remove_tree(path)] == []
    for pid in base.list_members(group):
        with contextlib.suppress(OSError):
            os.kill(pid, _SIGKILL)
    return base.remove_group(group) and all_removed


def list_service_processes(service: int) -> Iterator[int]:
    """The service's process and its descendants, as far as they can be seen.

    Of the frozen executable also the first process, which unpacks it and waits for its child,
    the service.
    """
    parent = int(base.read_file(f"/proc/{service}/stat").rpartition(")")[2].split()[1])
    frozen = getattr(sys, "frozen", False) and _program_of(parent) == _program_of(service)
    pending = [parent if frozen else service]
    while pending:
        pid = pending.pop()
        yield pid
        with contextlib.suppress(FileNotFoundError):  # it has ended
            for thread in os.listdir(f"/proc/{pid}/task"):
                children = base.read_file(f"/proc/{pid}/task/{thread}/children")
                pending += map(int, children.split())


def _owner_is_alive(name: str) -> bool:
    try:
        pid, start_time, _ = (int(word) for word in name.removeprefix(base.PREFIX).split("-"))
    except ValueError:
        return True  # not a name of this product
    return _start_time(pid) == start_time


def _is_locked(parent: str) -> bool:
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True  # removed by now, or not accessible
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _start_time(pid: int) -> int:
    """When a process started, in ticks since boot; -1 if there is none."""
    fields = base.read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields else -1


def _program_of(pid: int) -> str:
    """The file that a process executes; its process id if that can't be read."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return str(pid)
