"""Resource limits (setrlimit(2)) of a program; the init process sets them before exec."""

import math
import os
import platform
import resource
from pathlib import Path

from appliance.domain.execution import Limits

_MIB = 1024 * 1024
_STACK = 8 * _MIB
_LOCKED_MEMORY = 64 * 1024
_OPEN_FILES = 512
# Since this version RLIMIT_NPROC counts per user namespace, and each run has its own.
_COUNTED_PER_NAMESPACE = (5, 14)

Rlimit = tuple[int, int, int]  # which, soft, hard


def program_rlimits(limits: Limits, *, own_user: bool) -> list[Rlimit]:
    """The limits for one run; `own_user` says that nothing else has its user id.

    Memory is RLIMIT_DATA, not RLIMIT_AS: Node and others reserve gigabytes of address space
    that they do not use.
    """
    cpu = math.ceil(limits.cpu_s)
    max_file_bytes = max(limits.workspace_bytes, limits.tmp_bytes)
    # One more for the init process, which the kernel counts too.
    processes = limits.processes + 1 + (0 if own_user else _processes_of_this_user())
    rlimits = [
        # The init process should end the run first, so the soft limit is a second higher: the
        # kernel's clock runs ahead of the one read there and counts the interpreter's start. The
        # hard limit allows one more second for programs that catch SIGXCPU.
        (resource.RLIMIT_CPU, cpu + 1, cpu + 2),
        (resource.RLIMIT_DATA, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, max_file_bytes, max_file_bytes),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_STACK, _STACK, _STACK),
        (resource.RLIMIT_MEMLOCK, _LOCKED_MEMORY, _LOCKED_MEMORY),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        # One byte is too small for a core file. With 0 the kernel would still start the
        # machine's core dump handler, a process outside of every limit (see core(5)).
        (resource.RLIMIT_CORE, 1, 1),
    ]
    return [_below_ceiling(*limit) for limit in rlimits]


def startup_rlimits() -> list[Rlimit]:
    """The limits that matter as an interpreter starts; the same for every run."""
    return [_below_ceiling(resource.RLIMIT_STACK, _STACK, _STACK)]


def _below_ceiling(which: int, soft: int, hard: int) -> Rlimit:
    _, ceiling = resource.getrlimit(which)
    if ceiling == resource.RLIM_INFINITY:
        return which, soft, hard
    return which, min(soft, ceiling), min(hard, ceiling)


def _processes_of_this_user() -> int:
    """Threads that already count against this user; 0 if the kernel counts each run apart."""
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if version >= _COUNTED_PER_NAMESPACE:
        return 0
    return sum(_threads(folder) for folder in Path("/proc").iterdir() if folder.name.isdigit())


def _threads(process: Path) -> int:
    try:
        own = process.stat().st_uid == os.getuid()
        return len(list((process / "task").iterdir())) if own else 0
    except OSError:  # it has ended
        return 0
