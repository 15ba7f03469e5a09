"""The engine's system-call filter: what it needs is allowed, everything else refused.

Files can only be opened for reading, new threads started but no processes, signals sent
to itself only; there is no way to a new socket. Refused calls fail with EPERM; clone3
and openat2, whose flags a filter can't see, with ENOSYS, so that the C library falls back.
"""

import ctypes
import errno
import os
import platform

from plugins._shared.seccomp.bpf import (
    ANY_BIT,
    EQUAL,
    Block,
    allow,
    argument,
    each,
    fail,
    own_calls_only,
    packed,
    supported,
    when,
)
from plugins.providers.llama_cpp.confinement import syscalls as calls

_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_INSTRUCTION_BYTES = 8
_CLONE_THREAD = 0x00010000
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_TMPFILE without O_DIRECTORY
_WRITING = 0x1 | 0x2 | 0x40 | 0x200 | 0x400 | 0x400000
_IOCTLS = (0x5421, 0x5451, 0x541B, 0x5401)  # FIONBIO, FIOCLEX, FIONREAD, TCGETS
_PRCTLS = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(*, gpu: bool) -> None:
    """Put this process, all threads, under the filter for good. Raises OSError.

    Needs PR_SET_NO_NEW_PRIVS. A GPU's driver does what no list of ours could name, so
    with one only the calls that lead out of the process are refused.
    """
    machine = platform.machine()
    if not supported(machine):
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    lines = program(machine, os.getpid(), gpu=gpu)
    filled = _Program(len(lines) // _INSTRUCTION_BYTES, lines)
    libc = ctypes.CDLL(None, use_errno=True)
    number = calls.SECCOMP[machine]
    if libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filled)):
        failed = ctypes.get_errno() or errno.EBUSY
        raise OSError(failed, os.strerror(failed))


def program(machine: str, pid: int, *, gpu: bool) -> bytes:
    """The filter for the process `pid` of this machine's kind."""
    return packed(_with_gpu(machine) if gpu else _strict(machine, pid))


def _strict(machine: str, pid: int) -> Block:
    reading = [*when(ANY_BIT, _WRITING, [fail(errno.EACCES)]), allow()]
    block = own_calls_only(machine)
    block += each(calls.free(machine), allow())
    block += when(EQUAL, calls.OPENAT[machine], [argument(2), *reading])
    if machine in calls.OPEN:
        block += when(EQUAL, calls.OPEN[machine], [argument(1), *reading])
    for number in (calls.CLONE3[machine], calls.OPENAT2[machine]):
        block += when(EQUAL, number, [fail(errno.ENOSYS)])
    block += when(EQUAL, calls.CLONE[machine], _thread())
    block += when(EQUAL, calls.IOCTL[machine], _only(1, _IOCTLS))
    block += when(EQUAL, calls.PRCTL[machine], _only(0, _PRCTLS))
    # Limits may be asked for, not set: no pointer to new ones.
    block += when(EQUAL, calls.PRLIMIT64[machine], _only(2, (0,)))
    for number in (calls.KILL[machine], calls.TGKILL[machine]):
        block += when(EQUAL, number, _only(0, (pid,)))
    return [*block, fail(errno.EPERM)]


def _with_gpu(machine: str) -> Block:
    block = own_calls_only(machine)
    block += each(calls.never(machine), fail(errno.EPERM))
    block += when(EQUAL, calls.CLONE3[machine], [fail(errno.ENOSYS)])
    block += when(EQUAL, calls.CLONE[machine], _thread())
    return [*block, allow()]


def _thread() -> Block:
    return [argument(0), *when(ANY_BIT, _CLONE_THREAD, [allow()]), fail(errno.EPERM)]


def _only(index: int, values: tuple[int, ...]) -> Block:
    return [argument(index), *each(values, allow()), fail(errno.EPERM)]
