"""Rules of the run filter for calls whose arguments decide.

Each block starts with the number of the call loaded and ends with a return. A filter can't read
memory behind an address.
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
    fail_with,
    load_argument,
    load_argument_high,
    mask_bits,
    return_for_each,
    run_if,
)

_REFUSED = fail_with(errno.EPERM)
# The call succeeds without effect.
_IGNORED = fail_with(0)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NAMESPACE_FLAGS = 0x00020000 | 0x7E000000
# Plain Linux, and the query for the current one.
_PERSONALITIES = (0x0, 0xFFFFFFFF)

# Pushing characters into a terminal, also through the console, and changing its line discipline,
# for which the kernel would load old drivers with a record of vulnerabilities.
_REFUSED_IOCTLS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
# Mask and start: all others of terminals and of any file, then those that read interfaces and
# addresses. Not allowed: requests of file systems, which reveal the disk or work on its blocks,
# and of sockets at which the kernel loads drivers for bridges and VLANs.
_ALLOWED_IOCTL_RANGES = {0xFF00: 0x5400, 0xFFFFFFC0: 0x8900}
_ALLOWED_IOCTLS = (0x8946,)  # SIOCETHTOOL

_SOCKET_TYPES = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
_SOCKET_TYPE_BITS = ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) & 0xFFFFFFFF
_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_NETLINK_ROUTE = 0
# Option by level: other protocols within an existing connection, and a change of its family.
_REFUSED_OPTIONS = {
    socket.IPPROTO_TCP: 31,  # TCP_ULP: encryption by the kernel
    socket.IPPROTO_UDP: 100,  # UDP_ENCAP: IPsec and tunnels
    socket.IPPROTO_IPV6: 1,  # IPV6_ADDRFORM
}

# Notifications of what others do with shared files, such as which programs they start; and
# leases, with which the owner of a file makes everyone who opens it wait.
_REFUSED_FCNTLS = (1024, 1026, 1040)  # F_SETLEASE, F_NOTIFY, F_SETDELEG
_READ_EVENTS = 0x01 | 0x10 | 0x20  # IN_ACCESS, IN_CLOSE_NOWRITE, IN_OPEN

# The machine's huge pages are reserved for others, and no limit counts them.
_MAP_HUGETLB, _MFD_HUGETLB = 0x40000, 0x4
# Merging equal pages (KSM) reveals what other processes hold in memory.
_MADV_MERGEABLE = 12
# Core scheduling would keep a processor core from all others.
_PR_SCHED_CORE = 62
_MS_SYNC = 4
_FADV_DONTNEED = 4


def build_argument_rules(*, memory_counted: bool) -> dict[str, Block]:
    """Blocks by name of the call. `memory_counted`: see run_filter.build_run_filter."""
    huge_file = run_if(ANY_BIT, _MFD_HUGETLB, [_REFUSED])
    return {
        # Its flags lie in memory; the C library falls back on clone.
        "clone3": [fail_with(errno.ENOSYS)],
        "clone": [load_argument(0), *run_if(ANY_BIT, _NAMESPACE_FLAGS, [_REFUSED]), allow()],
        "personality": [load_argument(0), *return_for_each(_PERSONALITIES, allow()), _REFUSED],
        "prctl": _allow_unless(0, [_PR_SCHED_CORE]),
        "mmap": [load_argument(3), *run_if(ANY_BIT, _MAP_HUGETLB, [_REFUSED]), allow()],
        "madvise": _allow_unless(2, [_MADV_MERGEABLE]),
        "memfd_create": [load_argument(1), *huge_file, allow()] if memory_counted else [_REFUSED],
        "setrlimit": _allow_unless(0, [resource.RLIMIT_CORE], _IGNORED),
        "prlimit64": _prlimit_rule(),
        "ioctl": _ioctl_rule(),
        "fcntl": _allow_unless(1, _REFUSED_FCNTLS),
        "inotify_add_watch": [
            load_argument(2),
            *run_if(ANY_BIT, _READ_EVENTS, [_REFUSED]),
            allow(),
        ],
        "msync": [load_argument(2), *run_if(ANY_BIT, _MS_SYNC, [_IGNORED]), allow()],
        # A run must not drop pages of files that all use from the cache.
        "fadvise64": _allow_unless(3, [_FADV_DONTNEED], _IGNORED),
        "socket": _socket_rule(),
        "socketpair": [load_argument(0), *return_for_each([socket.AF_UNIX], allow()), _REFUSED],
        "setsockopt": _setsockopt_rule(),
        "sendto": _refuse_out_of_band(3),
        "sendmsg": _refuse_out_of_band(2),
        "sendmmsg": _refuse_out_of_band(3),
    }


def _allow_unless(index: int, values: Iterable[int], verdict: Instruction = _REFUSED) -> Block:
    return [load_argument(index), *return_for_each(values, verdict), allow()]


def _prlimit_rule() -> Block:
    """As setrlimit where new limits are passed; otherwise it only reads the current ones."""
    sets_limits = run_if(GREATER, 0, [_IGNORED])
    body = [load_argument(2), *sets_limits, load_argument_high(2), *sets_limits, allow()]
    return [load_argument(1), *run_if(EQUAL, resource.RLIMIT_CORE, body), allow()]


def _ioctl_rule() -> Block:
    block = [
        load_argument(1),
        *return_for_each(_REFUSED_IOCTLS, _REFUSED),
        *return_for_each(_ALLOWED_IOCTLS, allow()),
    ]
    for bits, start in _ALLOWED_IOCTL_RANGES.items():
        block += [load_argument(1), mask_bits(bits), *return_for_each([start], allow())]
    return [*block, fail_with(errno.ENOTTY)]


def _socket_rule() -> Block:
    """Stream and datagram sockets only: protocol 0 of other types means one such as SCTP."""
    netlink = [load_argument(2), *return_for_each([_NETLINK_ROUTE], allow()), _REFUSED]
    known_protocol = [load_argument(2), *return_for_each(_PROTOCOLS, allow()), _REFUSED]
    internet = [load_argument(1), mask_bits(_SOCKET_TYPE_BITS)]
    for socket_type in _SOCKET_TYPES:
        internet += run_if(EQUAL, socket_type, known_protocol)
    internet.append(_REFUSED)
    return [
        load_argument(0),
        *return_for_each([socket.AF_UNIX], allow()),
        *run_if(EQUAL, socket.AF_NETLINK, netlink),
        *run_if(EQUAL, socket.AF_INET, internet),
        *run_if(EQUAL, socket.AF_INET6, internet),
        _REFUSED,
    ]


def _setsockopt_rule() -> Block:
    block = [load_argument(1)]
    for level, option in _REFUSED_OPTIONS.items():
        block += run_if(
            EQUAL, level, [load_argument(2), *return_for_each([option], _REFUSED), allow()]
        )
    return [*block, allow()]


def _refuse_out_of_band(flags_index: int) -> Block:
    """Out-of-band data: rarely used kernel code that programs of today don't need."""
    return [load_argument(flags_index), *run_if(ANY_BIT, socket.MSG_OOB, [_REFUSED]), allow()]
