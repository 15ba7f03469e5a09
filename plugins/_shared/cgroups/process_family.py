"""The processes that a control group is delegated for: the service, and what it started."""

# ruff: noqa: PTH115, PTH208
import contextlib
import os
import sys
from collections.abc import Iterator

from plugins._shared.cgroups import base


def family(service: int) -> Iterator[int]:
    """Their numbers, as far as they can be seen.

    The executable's first process only unpacks and waits for the service, its child.
    """
    parent = int(base.read(f"/proc/{service}/stat").rpartition(")")[2].split()[1])
    unpacked = getattr(sys, "frozen", False) and _program(parent) == _program(service)
    todo = [parent if unpacked else service]
    while todo:
        pid = todo.pop()
        yield pid
        with contextlib.suppress(FileNotFoundError):  # it ended while we looked
            for thread in os.listdir(f"/proc/{pid}/task"):
                children = base.read(f"/proc/{pid}/task/{thread}/children")
                todo += map(int, children.split())


def _program(pid: int) -> str:
    """The file that a process runs; its own number if that can't be seen."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return str(pid)
