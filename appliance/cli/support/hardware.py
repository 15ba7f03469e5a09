"""What this machine has: processor, memory, file systems. Linux, read from /proc and cgroups."""

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

# What llama.cpp's fast paths ask for, best last.
CPU_FEATURES = ("f16c", "fma", "avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre"})
_CGROUP = Path("/sys/fs/cgroup")


class Cpu(Struct, frozen=True):
    """`cores` are those that this process may use."""

    architecture: str
    cores: int
    features: tuple[str, ...]


class FileSystem(Struct, frozen=True):
    kind: str
    free: int

    @property
    def network(self) -> bool:
        return self.kind in _NETWORK or self.kind.startswith("fuse.sshfs")


def cpu() -> Cpu:
    flags = set(_field(Path("/proc/cpuinfo"), "flags").split())
    found = tuple(name for name in CPU_FEATURES if name in flags)
    return Cpu(platform.machine(), len(os.sched_getaffinity(0)), found)


def available_memory() -> int:
    """Bytes that a new process could use: what the machine has left, or the cgroup if less."""
    words = _field(Path("/proc/meminfo"), "MemAvailable").split()
    machine = int(words[0]) * 1024 if words else 0
    return max(0, min([machine, *_cgroup_room()]))


def file_system(path: Path) -> FileSystem:
    """The file system that holds a path, or would hold it."""
    there = nearest_existing(path).resolve()
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        # Fields: the fifth on the left is the place, the first on the right the kind.
        place = left.split(" ")[4].encode().decode("unicode_escape")
        if there.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, right.split(" ")[0]
    return FileSystem(kind, shutil.disk_usage(there).free)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _cgroup_room() -> Iterator[int]:
    """What each memory cgroup above this process leaves, in bytes; of version 1 or 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            yield from _rooms(_CGROUP, place, "memory.max", "memory.current")
        elif controllers == "memory":
            files = "memory.limit_in_bytes", "memory.usage_in_bytes"
            yield from _rooms(_CGROUP / "memory", place, *files)


def _rooms(root: Path, place: str, limit: str, used: str) -> Iterator[int]:
    own = root / place.lstrip("/")
    for group in (own, *own.parents):
        if group.is_relative_to(root) and (group / limit).exists():
            allowed = (group / limit).read_text().strip()
            if allowed.isdecimal():
                yield int(allowed) - int((group / used).read_text())


def _field(file: Path, name: str) -> str:
    """The value of the first line `name: value`."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
