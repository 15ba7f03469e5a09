"""Landlock: limits what this thread and its children can open (see landlock(7)).

The engine imports this module. The stage receives it as bytecode and runs it inside a sandbox
before each program, without the rest of the product. Hence it imports only what an interpreter
loads quickly: `ctypes` alone would add 10 ms to each run, so `_ctypes` calls syscall(2).
"""

import _ctypes
import errno
import os
import struct

TYPE_CHECKING = False  # as in typing, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# These numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

# LANDLOCK_ACCESS_FS_*
EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
# Rights that a rule for a file may hold; the kernel refuses others there (ACCESS_FILE).
_FILE_RIGHTS = EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

READ = _READ_FILE | _READ_DIR
USE_DEVICES = READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
MODIFY = _ALL & ~(_MAKE_CHAR | _MAKE_BLOCK)

# Number of file rights by ABI version; later versions drop none.
_RIGHT_COUNTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals


def version() -> int:
    """The kernel's Landlock ABI version; 0 if it has none or it is turned off."""
    try:
        return _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(
    allowed: "Mapping[Any, int]", *, deny_tcp: bool = True, oldest_version: int = 1
) -> int:
    """Restrict this thread for good to the rights on these paths or open descriptors.

    Rights are READ, EXECUTE, USE_DEVICES, MODIFY or a union; what the kernel does not know is
    not enforced. A path that does not exist is skipped. Requires PR_SET_NO_NEW_PRIVS.

    Returns the ABI version, or 0 without any restriction if it is below `oldest_version`.
    Raises OSError if the kernel refuses a rule.
    """
    abi = version()
    if abi < oldest_version:
        return 0
    known = (1 << _RIGHT_COUNTS[min(abi, max(_RIGHT_COUNTS))]) - 1
    attributes = _ruleset_attributes(abi, known, deny_tcp)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for target, rights in allowed.items():
            _allow(ruleset, target, rights & known)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _ruleset_attributes(abi: int, rights: int, deny_tcp: bool) -> bytes:
    """struct landlock_ruleset_attr, as much of it as this version knows."""
    fields = [rights]
    if abi >= _TCP_SINCE:
        fields.append(_TCP if deny_tcp else 0)
    if abi >= _SCOPES_SINCE:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _allow(ruleset: int, target: "Any", rights: int) -> None:
    if isinstance(target, int):
        _add_rule(ruleset, target, rights)
        return
    try:
        parent = os.open(target, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _add_rule(ruleset, parent, rights)
    finally:
        os.close(parent)


def _add_rule(ruleset: int, parent: int, rights: int) -> None:
    if not os.path.isdir(parent):  # noqa: PTH112 - pathlib is slow to import
        rights &= _FILE_RIGHTS
    # struct landlock_path_beneath_attr
    _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, parent), 0)


class _SyscallFunction(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = int


_libc = _ctypes.dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]
_syscall_function = _SyscallFunction(_ctypes.dlsym(_libc, "syscall"))


def _syscall(*arguments: "int | bytes | None") -> int:
    """Integers are passed as C ints, bytes by their address. Raises OSError."""
    result: int = _syscall_function(*arguments)
    if result < 0:
        code = _ctypes.get_errno() or errno.EINVAL
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
