"""Landlock around the program: the kernel's own list of what it may touch (see landlock(7)).

Runs inside, in the stage's child, just before it becomes the program. The mounts, the network
namespace and the user id say the same already; this holds where one of them should fail.
"""

# As in the stage: what is imported here delays every run; `ctypes` alone would by 10 ms.
# ruff: noqa: S108
import os
import struct

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_USE = _READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE
_ALL = (1 << 16) - 1
_WRITE = _ALL & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)

# The first version would refuse to move files from one folder to another.
_OLDEST = 2
# How many rights on files the kernel knows, by version of Landlock; none are dropped later.
_RIGHTS = {2: 14, 3: 15, 4: 15, 5: 16}
_SCOPES_SINCE = 6
# A program may serve and ask itself over TCP, as tests do: its network leads nowhere else.
_NO_PORTS_HANDLED = 0
_SCOPES = 0b11  # abstract Unix sockets, signals

_PLACES = {
    "/": _READ,
    "/dev": _USE,
    "/dev/shm": _WRITE,
    "/tmp": _WRITE,
    "/workspace": _WRITE,
}


def restrict() -> int:
    """Confine this process for good; the kernel's version of Landlock, 0 where there is none.

    Raises OSError if the kernel has it and does not do it.
    """
    ask = _Asker()
    version = ask(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < _OLDEST:
        return 0
    known = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    ruleset = struct.pack("=Q", known)
    if version >= _SCOPES_SINCE:
        ruleset += struct.pack("=QQ", _NO_PORTS_HANDLED, _SCOPES)
    handle = _done(ask(_CREATE_RULESET, ruleset, len(ruleset), 0))
    for path, rights in _PLACES.items():
        _allow(ask, handle, path, rights & known)
    _done(ask(_RESTRICT_SELF, handle, 0))
    os.close(handle)
    return version


def _allow(ask: "_Asker", ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rule = struct.pack("=Qi", rights, place)
    _done(ask(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    os.close(place)


class _Asker:
    """The C library's syscall(); integers are C ints, bytes are given by their address."""

    def __init__(self) -> None:
        self._ctypes = __import__("_ctypes")
        self._address = self._ctypes.dlsym(self._ctypes.dlopen(None, os.RTLD_NOW), "syscall")

    def __call__(self, *words: "int | bytes | None") -> int:
        result: int = self._ctypes.call_function(self._address, words)
        return result


def _done(result: int) -> int:
    if result < 0:
        raise OSError("Landlock refused a rule that this version of it should know")
    return result
