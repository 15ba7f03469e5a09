"""Landlock: the kernel lets this process open only what is named here (see landlock(7))."""

import ctypes
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_ASK_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV = 1 << 15
READ = _READ_FILE | _READ_DIR
DEVICE = READ | _WRITE_FILE | _IOCTL_DEV
_FOR_FILES = _READ_FILE | _WRITE_FILE | _IOCTL_DEV

# How many rights on files the kernel knows, by version of Landlock; none are dropped later.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_SINCE, _SCOPES_SINCE = 4, 6
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr"""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    """struct landlock_path_beneath_attr"""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock, 0 where it has none or has it turned off."""
    return max(0, _libc().syscall(_CREATE_RULESET, None, 0, _ASK_VERSION))


def restrict(allowed: Mapping[Path | int, int]) -> None:
    """Let this thread, and all that it starts, open nothing but these paths or descriptors.

    Values are READ or DEVICE. A path that does not exist is passed over. Needs
    PR_SET_NO_NEW_PRIVS. Raises OSError.
    """
    known = version()
    if not known:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock, or it is turned off")
    files = (1 << _RIGHTS[min(known, max(_RIGHTS))]) - 1
    ruleset = _Ruleset(
        files,
        _TCP if known >= _NETWORK_SINCE else 0,
        _SCOPES if known >= _SCOPES_SINCE else 0,
    )
    handle = _checked(_CREATE_RULESET, ctypes.byref(ruleset), _size(known), 0)
    try:
        for place, rights in allowed.items():
            _allow(handle, place, rights & files)
        _checked(_RESTRICT_SELF, handle, 0)
    finally:
        os.close(handle)


def _allow(ruleset: int, place: Path | int, rights: int) -> None:
    if isinstance(place, int):
        _rule(ruleset, place, rights)
        return
    try:
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _rule(ruleset, opened, rights)
    finally:
        os.close(opened)


def _rule(ruleset: int, opened: int, rights: int) -> None:
    folder = stat.S_ISDIR(os.fstat(opened).st_mode)
    beneath = _Beneath(rights if folder else rights & _FOR_FILES, opened)
    _checked(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)


def _size(known: int) -> int:
    """How much of the structure this version knows."""
    fields = 1 + (known >= _NETWORK_SINCE) + (known >= _SCOPES_SINCE)
    return fields * ctypes.sizeof(ctypes.c_uint64)


def _checked(*words: object) -> int:
    result = _libc().syscall(*words)
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
