"""The calls that the filter judges by their arguments.

Each block begins with the number of the call loaded, and ends with a verdict. What lies in
memory, behind an address, a filter can't see.
"""

import errno
import resource
import socket
from collections.abc import Iterable

from plugins._shared.seccomp.bpf import (
    ANY_BIT,
    EQUAL,
    GREATER,
    Block,
    Instruction,
    allow,
    argument,
    each,
    fail,
    only_bits,
    upper_half,
    when,
)

_REFUSED = fail(errno.EPERM)
# The call succeeds and changes nothing.
_PASSED_OVER = fail(0)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x00020000 | 0x7E000000
# Plain Linux, and the question which one is set.
_PERSONALITIES = (0x0, 0xFFFFFFFF)

# Pushing characters into a terminal, the console's own ways to do that, and another line
# discipline for it: the kernel would load old drivers that have a record of holes.
_REFUSED_IOCTLS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
# All others of terminals, and of any file; then those that ask for interfaces and addresses.
# Beyond are the file systems' own, which tell of the disk or work on its blocks, and those of
# sockets at which the kernel loads drivers for bridges and VLANs.
_IOCTLS_BY_START = {0xFF00: 0x5400, 0xFFFFFFC0: 0x8900}
_MORE_IOCTLS = (0x8946,)  # SIOCETHTOOL

_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
_KIND_BITS = ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) & 0xFFFFFFFF
_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_ROUTES_ONLY = 0
# Other protocols within a connection that is there, and a change of its family.
_REFUSED_OPTIONS = {
    socket.IPPROTO_TCP: 31,  # TCP_ULP: encryption by the kernel
    socket.IPPROTO_UDP: 100,  # UDP_ENCAP: IPsec and tunnels
    socket.IPPROTO_IPV6: 1,  # IPV6_ADDRFORM
}
_OUT_OF_BAND = socket.MSG_OOB

# Word of what others do with files that all see, such as which programs they start; and leases,
# by which the owner of a file makes all who open it wait.
_REFUSED_FCNTLS = (1024, 1026, 1040)  # F_SETLEASE, F_NOTIFY, F_SETDELEG
_OTHERS_READ = 0x01 | 0x10 | 0x20  # IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN

# The machine's huge pages are set aside for somebody, and no limit counts them.
_MAP_HUGETLB, _MFD_HUGETLB = 0x40000, 0x4
# Pages that the machine shares between all who have the same tell what others have.
_MADV_MERGEABLE = 12
# A processor core for it alone, where others have to share theirs.
_PR_SCHED_CORE = 62
_MS_SYNC = 4
_FADV_DONTNEED = 4


def rules(*, memory_counted: bool) -> dict[str, Block]:
    """Blocks by the name of their call. `memory_counted`: see seccomp.py."""
    huge_file = when(ANY_BIT, _MFD_HUGETLB, [_REFUSED])
    return {
        # Its flags lie in memory; the C library falls back on clone.
        "clone3": [fail(errno.ENOSYS)],
        "clone": [argument(0), *when(ANY_BIT, _NAMESPACE_FLAGS, [_REFUSED]), allow()],
        "personality": [argument(0), *each(_PERSONALITIES, allow()), _REFUSED],
        "prctl": _all_but(0, [_PR_SCHED_CORE]),
        "mmap": [argument(3), *when(ANY_BIT, _MAP_HUGETLB, [_REFUSED]), allow()],
        "madvise": _all_but(2, [_MADV_MERGEABLE]),
        "memfd_create": [argument(1), *huge_file, allow()] if memory_counted else [_REFUSED],
        "setrlimit": _all_but(0, [resource.RLIMIT_CORE], _PASSED_OVER),
        "prlimit64": _prlimit(),
        "ioctl": _ioctl(),
        "fcntl": _all_but(1, _REFUSED_FCNTLS),
        "inotify_add_watch": [argument(2), *when(ANY_BIT, _OTHERS_READ, [_REFUSED]), allow()],
        "msync": [argument(2), *when(ANY_BIT, _MS_SYNC, [_PASSED_OVER]), allow()],
        # Not for one run to say of files that all use.
        "fadvise64": _all_but(3, [_FADV_DONTNEED], _PASSED_OVER),
        "socket": _socket(),
        "socketpair": [argument(0), *each([socket.AF_UNIX], allow()), _REFUSED],
        "setsockopt": _setsockopt(),
        "sendto": _without_urgent(3),
        "sendmsg": _without_urgent(2),
        "sendmmsg": _without_urgent(3),
    }


def _all_but(index: int, values: Iterable[int], then: Instruction = _REFUSED) -> Block:
    return [argument(index), *each(values, then), allow()]


def _prlimit() -> Block:
    """As setrlimit where new limits are given; else it only asks for those that are."""
    given = when(GREATER, 0, [_PASSED_OVER])
    body = [argument(2), *given, upper_half(2), *given, allow()]
    return [argument(1), *when(EQUAL, resource.RLIMIT_CORE, body), allow()]


def _ioctl() -> Block:
    block = [argument(1), *each(_REFUSED_IOCTLS, _REFUSED), *each(_MORE_IOCTLS, allow())]
    for bits, start in _IOCTLS_BY_START.items():
        block += [argument(1), only_bits(bits), *each([start], allow())]
    return [*block, fail(errno.ENOTTY)]


def _socket() -> Block:
    """Protocol 0 of another kind would be one of its own, such as SCTP."""
    netlink = [argument(2), *each([_ROUTES_ONLY], allow()), _REFUSED]
    of_kind = [argument(2), *each(_PROTOCOLS, allow()), _REFUSED]
    internet = [argument(1), only_bits(_KIND_BITS)]
    for kind in _KINDS:
        internet += when(EQUAL, kind, of_kind)
    internet.append(_REFUSED)
    return [
        argument(0),
        *each([socket.AF_UNIX], allow()),
        *when(EQUAL, socket.AF_NETLINK, netlink),
        *when(EQUAL, socket.AF_INET, internet),
        *when(EQUAL, socket.AF_INET6, internet),
        _REFUSED,
    ]


def _setsockopt() -> Block:
    block = [argument(1)]
    for level, option in _REFUSED_OPTIONS.items():
        block += when(EQUAL, level, [argument(2), *each([option], _REFUSED), allow()])
    return [*block, allow()]


def _without_urgent(flags: int) -> Block:
    """Bytes out of their order, for which the kernel has ways of its own, and no program now."""
    return [argument(flags), *when(ANY_BIT, _OUT_OF_BAND, [_REFUSED]), allow()]
