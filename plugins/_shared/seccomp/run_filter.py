"""The system-call filter, built as a classic BPF program (see seccomp(2), bpf in linux/filter.h).

Refused calls fail with EPERM. Calls that are newer than our tables, and clone3
(whose flags lie in memory, where a filter can't look), fail with ENOSYS, as on an
older kernel, so that the C library falls back. Requests to files that only few files
know fail with ENOTTY, as at all others. Calls of a foreign ABI end the process.

Passed over, which is to succeed and change nothing: a change of the limit on core dumps, which
stays what the launcher made it (programs that lower theirs, as careful ones do, are none the
worse for it); and whatever asks for data to be brought to disk.
"""

import errno

from plugins._shared.seccomp import argument_rules
from plugins._shared.seccomp import numbers as syscalls
from plugins._shared.seccomp.bpf import (
    AT_LEAST,
    EQUAL,
    GREATER,
    Block,
    allow,
    each,
    fail,
    own_calls_only,
    packed,
    supported,
    unless,
    when,
)

__all__ = ["program", "supported"]


def program(machine: str, *, memory_counted: bool = False) -> bytes:
    """The filter as an array of struct sock_filter, ready for `bwrap --seccomp`.

    `memory_counted`: the kernel counts the memory of the run as a whole, also what is in
    files that belong to no process.
    """
    return packed(_filter(machine, memory_counted))


def _filter(machine: str, memory_counted: bool) -> Block:
    return [
        *own_calls_only(machine),
        *_unknown(machine),
        *_judged(machine, memory_counted),
        *each(syscalls.numbers(syscalls.DENIED, machine).values(), fail(errno.EPERM)),
        *each(syscalls.numbers(syscalls.PASSED_OVER, machine).values(), fail(0)),
        allow(),
    ]


def _unknown(machine: str) -> Block:
    """Beyond the tables, and in the gap that they have."""
    later = unless(AT_LEAST, syscalls.SHARED, [fail(errno.ENOSYS)])
    return [
        *when(GREATER, syscalls.HIGHEST, [fail(errno.ENOSYS)]),
        *when(GREATER, syscalls.LAST_OF_ITS_OWN[machine], later),
    ]


def _judged(machine: str, memory_counted: bool) -> Block:
    numbers = syscalls.numbers(syscalls.JUDGED, machine)
    rules = argument_rules.rules(memory_counted=memory_counted)
    return [line for name, block in rules.items() for line in when(EQUAL, numbers[name], block)]
