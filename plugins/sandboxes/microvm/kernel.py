"""Finds the kernel that the guests boot, and where its modules lie."""

import platform
import re
import struct
from pathlib import Path

from msgspec import Struct

from plugins._shared.stage.unavailable import unavailable

_BOOT = Path("/boot")
_MODULES = Path("/lib/modules")
_OTHER_KERNELS = Path("/usr/lib/modules")
# Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst in the kernel's tree).
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT, _VERSION_BASE = 0x20E, 0x200
_HEADER_BYTES = 0x10000
_MAX_VERSION = 200
_REMEDY = (
    "install the host's package of a kernel (Debian, Ubuntu: linux-image-generic or "
    "linux-image-amd64), let the service read it, or name one in the setting "
    "sandbox.microvm_kernel"
)


class Kernel(Struct, frozen=True):
    """A bootable kernel; `modules` is None where it has no folder of modules."""

    image: Path
    version: str
    modules: Path | None


def find(setting: str) -> Kernel:
    """The kernel that the setting names; else the newest in /boot that can be read.

    Raises SandboxUnavailable, with the remedy.
    """
    if platform.machine() != "x86_64":
        raise unavailable(
            f"QEMU has no microvm for {platform.machine()} machines",
            "run the service on an x86_64 machine",
        )
    if setting:
        return _kernel(Path(setting), "the setting sandbox.microvm_kernel names")
    return _kernel(_newest(), "the newest kernel is")


def _newest() -> Path:
    found = [path for path in _BOOT.glob("vmlinuz-*") if path.is_file()]
    found += [path for path in _OTHER_KERNELS.glob("*/vmlinuz") if path.is_file()]
    if not found:
        raise unavailable("there is no kernel in /boot for the guests", _REMEDY)
    readable = [path for path in found if _readable(path)]
    if not readable:
        raise unavailable(f"the kernels of this machine, like {found[0]}, can't be read", _REMEDY)
    return max(readable, key=_age)


def _age(path: Path) -> list[tuple[int, int | str]]:
    """Sorts 6.10 behind 6.9."""
    words = re.findall(r"\d+|\D+", str(path))
    return [(1, int(word)) if word.isdigit() else (0, word) for word in words]


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _kernel(path: Path, said: str) -> Kernel:
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise unavailable(f"{said} {path}, which can't be read ({error.strerror})", _REMEDY) from (
            error
        )
    version = _version(head)
    if not version:
        raise unavailable(f"{said} {path}, which is no Linux kernel for x86_64 (bzImage)", _REMEDY)
    return Kernel(path, version, _modules(path, version))


def _version(head: bytes) -> str:
    """What the kernel calls itself; "" if this is the start of no kernel."""
    if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        return ""
    (offset,) = struct.unpack_from("<H", head, _VERSION_AT)
    start = offset + _VERSION_BASE
    text = head[start : start + _MAX_VERSION].partition(b"\0")[0]
    return text.decode(errors="replace").partition(" ")[0]


def _modules(path: Path, version: str) -> Path | None:
    """Beside the kernel, as in an unpacked package, or where the host keeps them."""
    places = (
        path.parent,
        path.parent.parent / "lib/modules" / version,
        path.parent.parent / "usr/lib/modules" / version,
        _MODULES / version,
    )
    return next((place for place in places if (place / "kernel").is_dir()), None)
