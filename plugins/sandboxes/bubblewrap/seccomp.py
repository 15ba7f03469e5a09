"""The system-call filter, built as a classic BPF program (see seccomp(2), bpf in linux/filter.h).

Refused calls fail with EPERM. Calls that are newer than our tables, and clone3
(whose flags lie in memory, where a filter can't look), fail with ENOSYS, as on an
older kernel, so that the C library falls back. Calls of a foreign ABI end the process.
A change of the limit on core dumps is passed over.
"""

import errno
import resource
import socket

from plugins.sandboxes.bubblewrap import syscalls
from plugins.syscall_filter import (
    ANY_BIT,
    EQUAL,
    GREATER,
    Block,
    allow,
    argument,
    each,
    fail,
    own_calls_only,
    packed,
    supported,
    upper_half,
    when,
)

__all__ = ["program", "supported"]

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x00020000 | 0x7E000000
# Pushing characters into a terminal, the console's own ways to do that, and another line
# discipline for it: the kernel would load old drivers that have a record of holes.
_REFUSED_IOCTLS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
# The call succeeds and changes nothing. The limit on core dumps stays what the launcher made it,
# and programs that lower theirs, as careful ones do, are none the worse for it.
_DONE_NOTHING = 0
# Plain Linux, and the question which one is set.
_PERSONALITIES = (0x0, 0xFFFFFFFF)
_PROTOCOLS = {
    socket.AF_INET: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
    socket.AF_INET6: (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
    socket.AF_NETLINK: (0,),  # routes only
}


def program(machine: str, *, memory_counted: bool = False) -> bytes:
    """The filter as an array of struct sock_filter, ready for `bwrap --seccomp`.

    `memory_counted`: the kernel counts the memory of the run as a whole, also what is in
    files that belong to no process.
    """
    return packed(_filter(machine, memory_counted))


def _filter(machine: str, memory_counted: bool) -> Block:
    return [
        *own_calls_only(machine),
        *when(GREATER, syscalls.HIGHEST, [fail(errno.ENOSYS)]),
        *when(EQUAL, syscalls.CLONE3[machine], [fail(errno.ENOSYS)]),
        *when(EQUAL, syscalls.CLONE[machine], _clone()),
        *when(EQUAL, syscalls.IOCTL[machine], _ioctl()),
        *when(EQUAL, syscalls.SOCKET[machine], _socket()),
        *when(EQUAL, syscalls.SOCKETPAIR[machine], _socketpair()),
        *when(EQUAL, syscalls.PERSONALITY[machine], _personality()),
        *when(EQUAL, syscalls.SETRLIMIT[machine], _setrlimit()),
        *when(EQUAL, syscalls.PRLIMIT64[machine], _prlimit()),
        *each(syscalls.denied(machine, memory_counted=memory_counted), fail(errno.EPERM)),
        allow(),
    ]


def _clone() -> Block:
    return [
        argument(0),
        *when(ANY_BIT, _NAMESPACE_FLAGS, [fail(errno.EPERM)]),
        allow(),
    ]


def _ioctl() -> Block:
    return [argument(1), *each(_REFUSED_IOCTLS, fail(errno.EPERM)), allow()]


def _setrlimit() -> Block:
    return [argument(0), *when(EQUAL, resource.RLIMIT_CORE, [fail(_DONE_NOTHING)]), allow()]


def _prlimit() -> Block:
    """As setrlimit where new limits are given; else it only asks for those that are."""
    given = when(GREATER, 0, [fail(_DONE_NOTHING)])
    body = [argument(2), *given, upper_half(2), *given, allow()]
    return [argument(1), *when(EQUAL, resource.RLIMIT_CORE, body), allow()]


def _personality() -> Block:
    return [argument(0), *each(_PERSONALITIES, allow()), fail(errno.EPERM)]


def _socket() -> Block:
    block = [argument(0), *each([socket.AF_UNIX], allow())]
    for family, protocols in _PROTOCOLS.items():
        body = [argument(2), *each(protocols, allow()), fail(errno.EPERM)]
        block += when(EQUAL, family, body)
    return [*block, fail(errno.EPERM)]


def _socketpair() -> Block:
    return [argument(0), *each([socket.AF_UNIX], allow()), fail(errno.EPERM)]
