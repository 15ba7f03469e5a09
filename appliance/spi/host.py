"""CPUs and memory that this machine and its cgroups leave to this process. Linux only.

A container sees the whole machine in /proc; its limits are in the cgroups of versions 1 and 2,
which can also be mounted side by side (the hybrid hierarchy). Every group from the process's own
up to the root can set a limit, and the smallest one holds.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity or a cgroup's quota, at least one."""
    return max(1, min([len(os.sched_getaffinity(0)), *_cpu_quotas()]))


def available_memory() -> int:
    """Bytes that this process and its children can take without swapping."""
    return max(0, min([_machine_memory(), *_cgroup_memory()]))


def _machine_memory() -> int:
    for line in _read(_MEMINFO).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _cgroup_memory() -> Iterator[int]:
    """What each group leaves. Its page cache can be reclaimed, so it counts as available."""
    for group in _own_cgroups("", "unified"):
        limit, used = _read_int(group / "memory.max"), _read_int(group / "memory.current")
        if limit is not None and used is not None:
            yield limit - used + _page_cache(group, "inactive_file", "active_file")
    for group in _own_cgroups("memory", "memory"):
        limit = _read_int(group / "memory.limit_in_bytes")
        used = _read_int(group / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield limit - used + _page_cache(group, "total_inactive_file", "total_active_file")


def _cpu_quotas() -> Iterator[int]:
    """Whole CPUs, for each group that limits them."""
    for group in _own_cgroups("", "unified"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            yield max(1, int(quota) // max(1, int(period)))
    for group in _own_cgroups("cpu", "cpu"):
        quota_us = _read_int(group / "cpu.cfs_quota_us")
        period_us = _read_int(group / "cpu.cfs_period_us")
        if quota_us is not None and period_us:
            yield max(1, quota_us // period_us)


def _own_cgroups(controller: str, mount: str) -> Iterator[Path]:
    """The groups of this process in one hierarchy, from its own up to the root.

    Controller "" means version 2, mounted at the top or, in the hybrid hierarchy, in `mount`.
    """
    for line in _read(_OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        root = _CGROUP_ROOT / mount if (_CGROUP_ROOT / mount).is_dir() else _CGROUP_ROOT
        own = root / path.strip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _page_cache(group: Path, *names: str) -> int:
    total = 0
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in names and value.isdigit():
            total += int(value)
    return total


def _read_int(path: Path) -> int | None:
    """None if the file does not exist or holds no number, such as "max"."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    """The file's text, or "" if this kernel or container has no such file."""
    try:
        return path.read_text()
    except OSError:
        return ""
