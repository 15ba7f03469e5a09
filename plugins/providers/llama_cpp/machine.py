"""What this machine gives the process: CPUs and memory, within its cgroup."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cpus() -> int:
    """CPUs that this process may run on, at least one; a cgroup's quota counts."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cpu_quota(_read(_CGROUP / "cpu.max"))
    return max(1, min(cpus, quota)) if quota else max(1, cpus)


def available_bytes() -> int:
    """Memory that can be taken without swapping; a cgroup's limit counts."""
    free = _meminfo_available(_read(_MEMINFO))
    limit = _read(_CGROUP / "memory.max").strip()
    used = _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def _cpu_quota(line: str) -> int:
    """Whole CPUs that `cpu.max` ("quota period", microseconds) allows; 0 means no limit."""
    words = line.split()
    if len(words) != len(("quota", "period")) or not words[0].isdigit():
        return 0
    return max(1, int(words[0]) // max(1, int(words[1])))


def _meminfo_available(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    """The file's text, or nothing where this kernel or container has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
