"""Processor and file systems of this machine. Linux, read from /proc."""

import platform
import shutil
from pathlib import Path

from msgspec import Struct

from appliance.spi import host

# What llama.cpp's fast paths ask for, best last.
CPU_FEATURES = ("f16c", "fma", "avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre"})


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
    return Cpu(platform.machine(), host.usable_cpus(), found)


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


def _field(file: Path, name: str) -> str:
    """The value of the first line `name: value`."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
