"""The system-call filter, built as a classic BPF program (see seccomp(2), bpf in linux/filter.h).

Refused calls fail with EPERM. Calls that are newer than our tables, and clone3
(whose flags lie in memory, where a filter can't look), fail with ENOSYS, as on an
older kernel, so that the C library falls back. Calls of a foreign ABI end the process.
"""

import errno
import socket
import struct
from collections.abc import Iterable

from plugins.sandboxes.bubblewrap import syscalls

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_KILL_PROCESS = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

# Offsets in struct seccomp_data; arguments are 64 bits, little-endian: the low half comes first.
_NUMBER = 0
_ARCH = 4
_ARGUMENT = 16
_ARGUMENT_SIZE = 8

_X32_BIT = 0x40000000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x00020000 | 0x7E000000
# Pushing characters into a terminal, and the console's own ways to do that.
_REFUSED_IOCTLS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# Plain Linux, and the question which one is set.
_PERSONALITIES = (0x0, 0xFFFFFFFF)
_PROTOCOLS = {
    socket.AF_INET: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
    socket.AF_INET6: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
    socket.AF_NETLINK: (0,),  # routes only
}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
Block = list[Instruction]


def supported(machine: str) -> bool:
    """Whether there is a table for this machine (`platform.machine()`)."""
    return machine in AUDIT_ARCH


def program(machine: str) -> bytes:
    """The filter as an array of struct sock_filter, ready for `bwrap --seccomp`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter(machine))


def _filter(machine: str) -> Block:
    return [
        _load(_ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _give(_KILL_PROCESS),
        _load(_NUMBER),
        *(_if(_JUMP_AT_LEAST, _X32_BIT, [_give(_KILL_PROCESS)]) if machine == "x86_64" else []),
        *_if(_JUMP_GREATER, syscalls.HIGHEST, [_fail(errno.ENOSYS)]),
        *_if(_JUMP_EQUAL, syscalls.CLONE3[machine], [_fail(errno.ENOSYS)]),
        *_if(_JUMP_EQUAL, syscalls.CLONE[machine], _clone()),
        *_if(_JUMP_EQUAL, syscalls.IOCTL[machine], _ioctl()),
        *_if(_JUMP_EQUAL, syscalls.SOCKET[machine], _socket()),
        *_if(_JUMP_EQUAL, syscalls.SOCKETPAIR[machine], _socketpair()),
        *_if(_JUMP_EQUAL, syscalls.PERSONALITY[machine], _personality()),
        *_each(syscalls.denied(machine), _fail(errno.EPERM)),
        _give(_ALLOW),
    ]


def _clone() -> Block:
    return [
        _argument(0),
        *_if(_JUMP_ANY_BIT, _NAMESPACE_FLAGS, [_fail(errno.EPERM)]),
        _give(_ALLOW),
    ]


def _ioctl() -> Block:
    return [_argument(1), *_each(_REFUSED_IOCTLS, _fail(errno.EPERM)), _give(_ALLOW)]


def _personality() -> Block:
    return [_argument(0), *_each(_PERSONALITIES, _give(_ALLOW)), _fail(errno.EPERM)]


def _socket() -> Block:
    block = [_argument(0), *_each([socket.AF_UNIX], _give(_ALLOW))]
    for family, protocols in _PROTOCOLS.items():
        body = [_argument(2), *_each(protocols, _give(_ALLOW)), _fail(errno.EPERM)]
        block += _if(_JUMP_EQUAL, family, body)
    return [*block, _fail(errno.EPERM)]


def _socketpair() -> Block:
    return [_argument(0), *_each([socket.AF_UNIX], _give(_ALLOW)), _fail(errno.EPERM)]


def _each(values: Iterable[int], then: Instruction) -> Block:
    return [line for value in values for line in _if(_JUMP_EQUAL, value, [then])]


def _if(jump: int, operand: int, then: Block) -> Block:
    return [(jump, 0, len(then), operand), *then]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _argument(index: int) -> Instruction:
    return _load(_ARGUMENT + _ARGUMENT_SIZE * index)


def _give(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _fail(number: int) -> Instruction:
    return _give(_ERRNO | number)
