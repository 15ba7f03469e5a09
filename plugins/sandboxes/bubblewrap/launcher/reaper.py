"""The launcher's own child processes, known to it or not."""

# ruff: noqa: PTH123
import contextlib
import os
from collections.abc import Collection

_SIGKILL = 9


def end_strays(known: Collection[int] = ()) -> None:
    """Kill and reap every child but the known ones.

    A bwrap that is killed just as it has made its child leaves one that waits for ever
    for a word from it, and that is nobody's but ours.
    """
    while strays := [pid for pid in _own() if pid not in known]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def parent(pid: int) -> int:
    """0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _own() -> list[int]:
    with open("/proc/thread-self/children", "rb") as file:
        return [int(word) for word in file.read().split()]
