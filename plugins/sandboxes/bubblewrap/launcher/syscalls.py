"""The kernel's calls that Python 3.11 has no names for (see the manual's section 2)."""

import ctypes
import os

NEW_MOUNTS, NEW_USERS, NEW_PIDS = 0x00020000, 0x10000000, 0x20000000
READ_ONLY, NO_SETUID, NO_DEVICES, REMOUNT = 1, 2, 4, 32
BIND, RECURSIVE, SLAVE = 4096, 16384, 1 << 19

_SIGKILL = 9
_DETACH = 2
_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
_PIDFD_SEND_SIGNAL = 424  # on every architecture

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    _call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (os.fsencode(source), os.fsencode(target), kind.encode())
    _call("mount", *words, ctypes.c_ulong(flags), options.encode() or None)


def detach(target: str) -> None:
    """Unmount, from this moment on for whoever comes, and for the others when they let go."""
    _call("umount2", os.fsencode(target), ctypes.c_int(_DETACH))


def die_with_parent(wanted: bool) -> None:
    """Whether the kernel kills this process when the one that started it ends."""
    _call("prctl", *_long(_SET_PARENT_DEATH_SIGNAL, _SIGKILL if wanted else 0, 0, 0, 0))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended."""
    _call("prctl", *_long(_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def kill(pidfd: int) -> None:
    """Kill the process that is meant; one that is gone is no error."""
    if _libc.syscall(*_long(_PIDFD_SEND_SIGNAL, pidfd, _SIGKILL, 0, 0)) != 0:
        number = ctypes.get_errno()
        if not isinstance(error := OSError(number, os.strerror(number)), ProcessLookupError):
            raise error


def ignore_signal(number: int, ignored: bool) -> None:
    _libc.signal(ctypes.c_int(number), ctypes.c_void_p(1 if ignored else 0))


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _long(*values: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(value) for value in values]
