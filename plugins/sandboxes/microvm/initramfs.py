"""The initramfs of the guests: drivers, and the program that mounts the root file system.

The format is cpio "newc" (see the kernel's driver-api/early-userspace/buffer-format.rst).
"""

import io
import stat
from collections.abc import Mapping

from plugins.sandboxes.microvm.elf_assembler import SystemCall, assemble_elf
from plugins.sandboxes.microvm.kernel_modules import KernelModules

_DRIVERS = ("virtio_mmio", "virtio_blk", "virtio_console", "ext4")
SANDBOX = "/opt/sandbox"
SUPERVISOR = "/opt/python/libexec/supervisor"

_MOUNT, _INIT_MODULE, _CHDIR, _CHROOT, _EXECVE = 165, 175, 80, 161, 59
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_MOVE = 1, 2, 4, 8, 8192
_NOSUID_NODEV_NOEXEC = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC

_CPIO_MAGIC = b"070701"
_CPIO_TRAILER = "TRAILER!!!"
_CPIO_ALIGNMENT = 4


def build_initramfs(modules: KernelModules) -> bytes:
    """Raises SandboxUnavailable if a module can't be read."""
    calls = [
        *_load_drivers(modules),
        *_mount_file_systems(),
        *_switch_root(),
        _execute_guest_init(),
    ]
    return cpio_archive(("root",), {"init": assemble_elf(calls)})


def _load_drivers(modules: KernelModules) -> list[SystemCall]:
    # Not required: the kernel refuses a driver that is built in.
    return [
        SystemCall(_INIT_MODULE, (module, len(module), b""), required=False)
        for module in modules.load_order(_DRIVERS)
    ]


def _mount_file_systems() -> list[SystemCall]:
    root_flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    dev_flags = _MS_NOSUID | _MS_NOEXEC
    # With hidepid a program sees its own processes only, and no kernel threads.
    proc = (b"proc", b"/root/proc", b"proc", _NOSUID_NODEV_NOEXEC, b"hidepid=2")
    return [
        SystemCall(_MOUNT, (b"devtmpfs", b"/dev", b"devtmpfs", 0, 0), required=False),
        SystemCall(_MOUNT, (b"/dev/vda", b"/root", b"ext4", root_flags, b"")),
        SystemCall(_MOUNT, (b"devtmpfs", b"/root/dev", b"devtmpfs", dev_flags, 0)),
        SystemCall(_MOUNT, proc),
    ]


def _switch_root() -> list[SystemCall]:
    return [
        SystemCall(_CHDIR, (b"/root",)),
        SystemCall(_MOUNT, (b".", b"/", 0, _MS_MOVE, 0)),
        SystemCall(_CHROOT, (b".",)),
        SystemCall(_CHDIR, (b"/",)),
    ]


def _execute_guest_init() -> SystemCall:
    python, guest_init = SUPERVISOR.encode(), f"{SANDBOX}/guest_init.pyc".encode()
    return SystemCall(_EXECVE, (python, [python, b"-I", b"-S", guest_init], []))


def cpio_archive(folders: tuple[str, ...], programs: Mapping[str, bytes]) -> bytes:
    """An archive of folders and executable files, by paths without a leading slash."""
    out = io.BytesIO()
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in programs.items()]
    for number, (name, mode, content) in enumerate(entries, start=1):
        _write_entry(out, number, name, mode, content)
    _write_entry(out, 0, _CPIO_TRAILER, 0, b"")
    return out.getvalue()


def _write_entry(out: io.BytesIO, number: int, name: str, mode: int, content: bytes) -> None:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
    # namesize, check
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    out.write(_CPIO_MAGIC + b"".join(b"%08X" % value for value in fields) + path)
    _pad(out)
    out.write(content)
    _pad(out)


def _pad(out: io.BytesIO) -> None:
    out.write(bytes(-out.tell() % _CPIO_ALIGNMENT))
