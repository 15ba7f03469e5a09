"""Control groups whose owner is gone: known by their names, removed with all that is in them."""

# ruff: noqa: PTH118, PTH208
import contextlib
import fcntl
import itertools
import os

from plugins._shared.cgroups import base

_numbers = itertools.count()


def top_name() -> str:
    """A new name that tells which process it belongs to, also once the number is another's."""
    return f"{base.PREFIX}{os.getpid()}-{_begun(os.getpid())}-{next(_numbers)}"


def claim(top: str) -> int:
    """A descriptor by which others see, while it is open, that this group is not left over.

    They may not see its process, as one of another user or in another process namespace.
    Raises OSError.
    """
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(BlockingIOError):  # whoever has it will not remove it either
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def sweep(parent: str) -> None:
    """Remove the groups in `parent` of processes that are gone, and end what is in them."""
    for top in leftovers(parent):
        remove_tree(top)


def leftovers(parent: str) -> list[str]:
    names = [name for name in os.listdir(parent) if name.startswith(base.PREFIX)]
    found = [os.path.join(parent, name) for name in names if not _owner_lives(name)]
    return [top for top in found if not _claimed(top)]


def remove_tree(top: str) -> bool:
    """Remove a group and those in it, and kill what is there; False while some is left."""
    try:
        inner = [entry.path for entry in os.scandir(top) if entry.is_dir()]
    except FileNotFoundError:
        return True
    gone = [path for path in inner if not remove_tree(path)] == []
    for pid in base.members(top):
        with contextlib.suppress(OSError):
            os.kill(pid, 9)
    return base.remove(top) and gone


def _owner_lives(name: str) -> bool:
    try:
        pid, begun, _ = (int(word) for word in name.removeprefix(base.PREFIX).split("-"))
    except ValueError:
        return True  # not of our making
    return _begun(pid) == begun


def _claimed(top: str) -> bool:
    try:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True  # gone by now, or not ours to look at
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _begun(pid: int) -> int:
    """When a process began, in ticks since the machine did; -1 if there is none."""
    fields = base.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields else -1
