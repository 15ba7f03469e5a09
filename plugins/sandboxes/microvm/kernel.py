"""Finds the kernel that the guests boot, and the folder of its modules."""

import platform
import re
import struct
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable

_BOOT = Path("/boot")
_MODULES = Path("/lib/modules")
_OTHER_KERNELS = Path("/usr/lib/modules")
# Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst in the kernel's tree).
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT, _VERSION_BASE = 0x20E, 0x200
_HEADER_BYTES = 0x10000
_MAX_VERSION = 200
_REMEDY = (
    "install a kernel package of the host (Debian, Ubuntu: linux-image-generic or "
    "linux-image-amd64) that the server can read, or set sandbox.microvm_kernel"
)


class Kernel(Struct, frozen=True):
    """A bootable kernel; `modules` is None if it has no folder of modules."""

    image: Path
    version: str
    modules: Path | None


def find_kernel(setting: str) -> Kernel:
    """The kernel that the setting names; else the newest readable one in /boot.

    Raises SandboxUnavailable.
    """
    if platform.machine() != "x86_64":
        raise SandboxUnavailable.with_remedy(
            f"QEMU's microvm does not support {platform.machine()}",
            "run the server on an x86_64 machine",
        )
    if setting:
        return _read_kernel(Path(setting), "sandbox.microvm_kernel names")
    return _read_kernel(_newest(), "the newest kernel is")


def _newest() -> Path:
    paths = [path for path in _BOOT.glob("vmlinuz-*") if path.is_file()]
    paths += [path for path in _OTHER_KERNELS.glob("*/vmlinuz") if path.is_file()]
    if not paths:
        raise SandboxUnavailable.with_remedy("there is no kernel in /boot for the guests", _REMEDY)
    readable = [path for path in paths if _readable(path)]
    if not readable:
        raise SandboxUnavailable.with_remedy(
            f"the kernels of this machine, such as {paths[0]}, can't be read", _REMEDY
        )
    return max(readable, key=_version_key)


def _version_key(path: Path) -> list[tuple[int, int | str]]:
    """Sorts 6.10 after 6.9."""
    words = re.findall(r"\d+|\D+", str(path))
    return [(1, int(word)) if word.isdigit() else (0, word) for word in words]


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _read_kernel(path: Path, subject: str) -> Kernel:
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise SandboxUnavailable.with_remedy(
            f"{subject} {path}, which can't be read ({error.strerror})", _REMEDY
        ) from (error)
    version = _version(head)
    if not version:
        raise SandboxUnavailable.with_remedy(
            f"{subject} {path}, which is not a Linux kernel for x86_64 (bzImage)", _REMEDY
        )
    return Kernel(path, version, _find_modules(path, version))


def _version(head: bytes) -> str:
    """The kernel's release; "" if this is not the start of a kernel."""
    if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        return ""
    (offset,) = struct.unpack_from("<H", head, _VERSION_AT)
    start = offset + _VERSION_BASE
    text = head[start : start + _MAX_VERSION].partition(b"\0")[0]
    return text.decode(errors="replace").partition(" ")[0]


def _find_modules(path: Path, version: str) -> Path | None:
    """Beside the kernel, as in an unpacked package, or where the host keeps them."""
    folders = (
        path.parent,
        path.parent.parent / "lib/modules" / version,
        path.parent.parent / "usr/lib/modules" / version,
        _MODULES / version,
    )
    return next((folder for folder in folders if (folder / "kernel").is_dir()), None)
