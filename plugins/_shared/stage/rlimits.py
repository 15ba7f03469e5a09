"""The kernel's own limits for the program, set between fork and exec by the stage."""

import math
import os
import platform
import resource
from pathlib import Path

from appliance.domain.execution import Limits

_MIB = 1024 * 1024
_STACK = 8 * _MIB
_LOCKED = 64 * 1024
_OPEN_FILES = 512
# Since this version processes are counted per user namespace, and each run has its own.
_COUNTED_PER_NAMESPACE = (5, 14)

Rlimit = tuple[int, int, int]  # which, soft, hard


def rlimits(limits: Limits, *, own_user: bool) -> list[Rlimit]:
    """For one run; `own_user` says that its user id is shared with nothing else.

    Memory is RLIMIT_DATA and not RLIMIT_AS: Node and others reserve address space
    by the gigabyte without using it.
    """
    cpu = math.ceil(limits.cpu_s)
    largest = max(limits.workspace_bytes, limits.tmp_bytes)
    # One more for the stage, which the kernel counts too.
    processes = limits.processes + 1 + (0 if own_user else _processes_of_this_user())
    wanted = [
        # The kernel's clock for this one runs ahead of the one that the stage reads, and counts
        # the start of an interpreter: the stage is to end the run first. The second more is for
        # programs that catch the warning signal.
        (resource.RLIMIT_CPU, cpu + 1, cpu + 2),
        (resource.RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, largest, largest),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_STACK, _STACK, _STACK),
        (resource.RLIMIT_MEMLOCK, _LOCKED, _LOCKED),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        # Too few for any file; and other than 0 it keeps the kernel from starting the machine's
        # own handler of core dumps, a process outside of every limit (see core(5)).
        (resource.RLIMIT_CORE, 1, 1),
    ]
    return [_below_ceiling(*limit) for limit in wanted]


def rlimits_at_start() -> list[Rlimit]:
    """Those that count as an interpreter starts, and are the same for every run."""
    return [_below_ceiling(resource.RLIMIT_STACK, _STACK, _STACK)]


def _below_ceiling(which: int, soft: int, hard: int) -> Rlimit:
    _, ceiling = resource.getrlimit(which)
    if ceiling == resource.RLIM_INFINITY:
        return which, soft, hard
    return which, min(soft, ceiling), min(hard, ceiling)


def _processes_of_this_user() -> int:
    """How many threads count against this user already; 0 where the kernel counts apart."""
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if version >= _COUNTED_PER_NAMESPACE:
        return 0
    return sum(_threads(folder) for folder in Path("/proc").iterdir() if folder.name.isdigit())


def _threads(process: Path) -> int:
    try:
        mine = process.stat().st_uid == os.getuid()
        return len(list((process / "task").iterdir())) if mine else 0
    except OSError:  # it ended while we looked
        return 0
