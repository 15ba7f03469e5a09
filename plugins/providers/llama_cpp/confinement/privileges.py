"""Drops the process's privileges for good and limits its resources."""

import contextlib
import ctypes
import os
import resource
import stat
from collections.abc import Sequence
from pathlib import Path

from plugins._shared import linux

_CAP_DAC_READ_SEARCH = 2
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522
_RESOURCE_LIMITS = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 256}
_DESCRIPTORS_WITH_GPU = 4096


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


def drop_capabilities(files: Sequence[Path]) -> None:
    """Drop all, except CAP_DAC_READ_SEARCH if the model's files can't be read without it.

    Raises OSError.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # unknown to this kernel, or dropped before
            linux.drop_bounding_capability(capability)
    kept = (1 << _CAP_DAC_READ_SEARCH) & _permitted() if any(map(_needs_capability, files)) else 0
    sets = (_Sets * 2)(_Sets(kept, kept, 0), _Sets(0, 0, 0))
    linux.call("capset", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets)


def set_limits(*, gpu: bool) -> None:
    """No file may grow, no core dumps, few descriptors. Raises OSError or ValueError.

    GPU drivers need many descriptors.
    """
    limits = _RESOURCE_LIMITS | ({resource.RLIMIT_NOFILE: _DESCRIPTORS_WITH_GPU} if gpu else {})
    for name, limit in limits.items():
        _, hard_limit = resource.getrlimit(name)
        value = limit if hard_limit == resource.RLIM_INFINITY else min(limit, hard_limit)
        resource.setrlimit(name, (value, value))


def _permitted() -> int:
    sets = (_Sets * 2)()
    linux.call("capget", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), sets)
    return int(sets[0].permitted)


def _needs_capability(model: Path) -> bool:
    """Whether file permissions alone keep this user from opening the model."""
    if not _has_permission(model, stat.S_IROTH):
        return True
    return not all(_has_permission(folder, stat.S_IXOTH) for folder in model.parents)


def _has_permission(path: Path, permission: int) -> bool:
    """`permission` is the bit of "others"; the owner's and the group's lie above it."""
    try:
        status = path.stat()
    except OSError:
        return False
    owner = status.st_uid == os.geteuid()
    group = status.st_gid in (os.getegid(), *os.getgroups())
    shift = 6 if owner else 3 if group else 0
    return bool(status.st_mode & (permission << shift))
