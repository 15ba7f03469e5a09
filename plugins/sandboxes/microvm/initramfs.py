"""The initramfs of the guests: drivers, and one program that finds the root file system."""

from plugins.sandboxes.microvm import cpio
from plugins.sandboxes.microvm.first_program import Call, program
from plugins.sandboxes.microvm.kernel_modules import Modules

_DRIVERS = ("virtio_mmio", "virtio_blk", "virtio_console", "ext4")
SANDBOX = "/opt/sandbox"
SUPERVISOR = "/opt/python/libexec/supervisor"

_MOUNT, _INIT_MODULE, _CHDIR, _CHROOT, _EXECVE = 165, 175, 80, 161, 59
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _MOVE = 1, 2, 4, 8, 8192
_SECURE = _NOSUID | _NODEV | _NOEXEC


def initramfs(modules: Modules) -> bytes:
    """The archive. Raises SandboxUnavailable if a module can't be read."""
    first = program([*_drivers(modules), *_file_systems(), *_into_the_root(), _next_program()])
    return cpio.archive(("root",), {"init": first})


def _drivers(modules: Modules) -> list[Call]:
    # Not required: one that is a part of this kernel already is refused.
    return [
        Call(_INIT_MODULE, (module, len(module), b""), required=False)
        for module in modules.load_order(_DRIVERS)
    ]


def _file_systems() -> list[Call]:
    mount = [
        Call(_MOUNT, (b"devtmpfs", b"/dev", b"devtmpfs", 0, 0), required=False),
        Call(_MOUNT, (b"/dev/vda", b"/root", b"ext4", _RDONLY | _NOSUID | _NODEV, b"")),
        Call(_MOUNT, (b"devtmpfs", b"/root/dev", b"devtmpfs", _NOSUID | _NOEXEC, 0)),
    ]
    # A program sees its own processes only, and none of the kernel's threads.
    return [*mount, Call(_MOUNT, (b"proc", b"/root/proc", b"proc", _SECURE, b"hidepid=2"))]


def _into_the_root() -> list[Call]:
    return [
        Call(_CHDIR, (b"/root",)),
        Call(_MOUNT, (b".", b"/", 0, _MOVE, 0)),
        Call(_CHROOT, (b".",)),
        Call(_CHDIR, (b"/",)),
    ]


def _next_program() -> Call:
    python, init = SUPERVISOR.encode(), f"{SANDBOX}/init.pyc".encode()
    return Call(_EXECVE, (python, [python, b"-I", b"-S", init], []))
