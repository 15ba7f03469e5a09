"""Gives up for good what the process may do beyond an ordinary one, and what it may use up."""

import ctypes
import os
import resource
import stat
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_CAP_DAC_READ_SEARCH = 2
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522
_LIMITS = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 256}
_FILES_WITH_GPU = 4096


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct"""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """struct __user_cap_data_struct, for capabilities below 32"""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def no_new_privileges() -> None:
    """No program that is started from here on can gain anything. Raises OSError."""
    _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_capabilities(model: Path) -> None:
    """Keep none, but for reading a model of another user's if that takes one. Raises OSError."""
    libc = _libc()
    for capability in range(_LAST_CAPABILITY + 1):
        # Fails for those that this kernel does not know or that are gone already.
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    kept = (1 << _CAP_DAC_READ_SEARCH) & _permitted() if _foreign(model) else 0
    sets = (_Sets * 2)(_Sets(kept, kept, 0), _Sets(0, 0, 0))
    _checked(libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))


def limit(*, gpu: bool) -> None:
    """No growing files, no core dumps, few descriptors. Raises OSError or ValueError.

    A GPU's driver opens a descriptor for much of what it does.
    """
    limits = _LIMITS | ({resource.RLIMIT_NOFILE: _FILES_WITH_GPU} if gpu else {})
    for which, wanted in limits.items():
        _, ceiling = resource.getrlimit(which)
        value = wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)
        resource.setrlimit(which, (value, value))


def _permitted() -> int:
    sets = (_Sets * 2)()
    _checked(_libc().capget(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets))
    return int(sets[0].permitted)


def _foreign(model: Path) -> bool:
    """Whether an ordinary process of this user could not open the file."""
    return any(not _open_to_us(place, model) for place in (model, *model.parents))


def _open_to_us(place: Path, model: Path) -> bool:
    try:
        found = place.stat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid()
    ours = found.st_gid in (os.getegid(), *os.getgroups())
    needed = stat.S_IROTH if place == model else stat.S_IXOTH
    shift = 6 if mine else 3 if ours else 0
    return bool(found.st_mode & (needed << shift))


def _checked(result: int) -> None:
    if result:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
