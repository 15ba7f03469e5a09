"""What this machine gives the process: CPUs and memory, within its cgroups."""

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_PROC = Path("/proc")


class Resident(Struct, frozen=True):
    """Bytes of a process in memory: its own, and pages of files that can be read again."""

    own: int = 0
    files: int = 0

    @property
    def all(self) -> int:
        return self.own + self.files


def usable_cpus() -> int:
    """CPUs that this process may run on, at least one; a cgroup's quota counts."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min([cpus, *_cpu_quotas()]))


def available_bytes() -> int:
    """Memory that can be taken without swapping; every cgroup's limit around us counts."""
    free = _kibibytes(_read(_MEMINFO), "MemAvailable")
    return max(0, min([free, *_memory_rooms()]))


def resident(pid: int) -> Resident:
    """What a process has in memory now, nothing if it is gone."""
    status = _read(_PROC / str(pid) / "status")
    own = _kibibytes(status, "RssAnon") + _kibibytes(status, "RssShmem")
    return Resident(own, _kibibytes(status, "RssFile"))


def _memory_rooms() -> Iterator[int]:
    """What each memory cgroup leaves; its page cache can be dropped, so it is not used up."""
    for group in _groups("", "unified"):
        limit, used = _whole(group / "memory.max"), _whole(group / "memory.current")
        if limit is not None and used is not None:
            yield limit - used + _cache(group, "inactive_file", "active_file")
    for group in _groups("memory", "memory"):
        limit = _whole(group / "memory.limit_in_bytes")
        used = _whole(group / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield limit - used + _cache(group, "total_inactive_file", "total_active_file")


def _cpu_quotas() -> Iterator[int]:
    """Whole CPUs that each cgroup allows, where it limits them."""
    for group in _groups("", "unified"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield max(1, int(quota) // max(1, int(period)))
    for group in _groups("cpu", "cpu"):
        quota, period = _whole(group / "cpu.cfs_quota_us"), _whole(group / "cpu.cfs_period_us")
        if quota is not None and period:
            yield max(1, quota // period)


def _groups(controller: str, folder: str) -> Iterator[Path]:
    """The groups of this process in one hierarchy, from its own up to the root.

    Controller "" is version 2, which lies at the top or, beside version 1, in a folder.
    """
    for line in _read(_OWN_GROUPS).splitlines():
        _, controllers, place = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        root = _CGROUP / folder if (_CGROUP / folder).is_dir() else _CGROUP
        own = root / place.strip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _cache(group: Path, *names: str) -> int:
    found = 0
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in names and value.isdigit():
            found += int(value)
    return found


def _whole(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or no limit in it."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _kibibytes(text: str, name: str) -> int:
    """The value of a line `name: value kB`, in bytes."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def _read(path: Path) -> str:
    """The file's text, or nothing where this kernel or container has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
