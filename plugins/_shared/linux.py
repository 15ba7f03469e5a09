"""System calls that the standard library has no function for (see section 2 of the manual).

Imported by the sandbox launcher and by the engine's process, which are to stay small; it also
travels as bytecode beside gVisor's launcher and the guests' agent, which run without the product.
So nothing but `ctypes` and `os` is imported here.
"""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19

_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PIDFD_SEND_SIGNAL = 424  # on every architecture
_SIGKILL = 9
_SIG_DFL, _SIG_IGN = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library and return its result. Raises OSError if it fails."""
    result = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def unshare(flags: int) -> None:
    """Move this process into new namespaces (CLONE_*). Raises OSError."""
    call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, fs_type: str, flags: int, options: str = "") -> None:
    """Mount a file system, with flags of MS_*. Raises OSError."""
    texts = (os.fsencode(source), os.fsencode(target), fs_type.encode())
    call("mount", *texts, ctypes.c_ulong(flags), options.encode() or None)


def unmount_lazily(target: str) -> None:
    """Detach a mount now; it is freed once nobody uses it. Raises OSError."""
    call("umount2", os.fsencode(target), ctypes.c_int(_MNT_DETACH))


def set_parent_death_signal(signal: int = _SIGKILL) -> None:
    """Have the kernel send this signal when the thread that started this process ends.

    0 turns it off. Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, signal)


def set_no_new_privileges() -> None:
    """Let no program that is started from here on gain privileges. Raises OSError."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_capability(capability: int) -> None:
    """Remove a capability from the bounding set. Raises OSError."""
    _prctl(_PR_CAPBSET_DROP, capability)


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent has ended. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_pidfd(pidfd: int) -> None:
    """Kill the process behind a pidfd; one that has ended is no error. Raises OSError."""
    try:
        call("syscall", *_longs(_PIDFD_SEND_SIGNAL, pidfd, _SIGKILL, 0, 0))
    except ProcessLookupError:
        return


def ignore_signal(number: int, ignored: bool) -> None:
    """Ignore a signal, or restore its default action; `signal` is slow to import."""
    _libc.signal(ctypes.c_int(number), ctypes.c_void_p(_SIG_IGN if ignored else _SIG_DFL))


def _prctl(operation: int, argument: int) -> None:
    call("prctl", *_longs(operation, argument, 0, 0, 0))


def _longs(*values: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(value) for value in values]


def as_longs(*values: object) -> list[object]:
    """Arguments of syscall(2): integers as C longs, bytes by their address."""
    return [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
