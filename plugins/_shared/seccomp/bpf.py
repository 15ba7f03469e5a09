"""Parts of a system-call filter: classic BPF, as seccomp(2) takes it (see linux/filter.h).

Shared by plugins that confine processes. A block is a list of instructions; the parts
of a block are only ever left at its end or by a verdict, so that blocks can be joined.
"""

import struct
from collections.abc import Iterable

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
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

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
Block = list[Instruction]


def supported(machine: str) -> bool:
    """Whether calls of this machine (`platform.machine()`) can be told from foreign ones."""
    return machine in AUDIT_ARCH


def packed(block: Block) -> bytes:
    """The program as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in block)


def own_calls_only(machine: str) -> Block:
    """The beginning of every filter: ends the process at a call of a foreign ABI.

    Afterwards the call's number is loaded.
    """
    foreign = when(AT_LEAST, _X32_BIT, [_give(_KILL_PROCESS)]) if machine == "x86_64" else []
    return [
        _load(_ARCH),
        (EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _give(_KILL_PROCESS),
        _load(_NUMBER),
        *foreign,
    ]


def when(jump: int, operand: int, then: Block) -> Block:
    """Run `then` where what is loaded compares so with the operand."""
    return [(jump, 0, len(then), operand), *then]


def unless(jump: int, operand: int, then: Block) -> Block:
    """Run `then` where it does not compare so."""
    return [(jump, len(then), 0, operand), *then]


def each(values: Iterable[int], then: Instruction) -> Block:
    """A verdict for each of several values."""
    return [line for value in values for line in when(EQUAL, value, [then])]


def argument(index: int) -> Instruction:
    """Load the lower half of a call's argument."""
    return _load(_ARGUMENT + _ARGUMENT_SIZE * index)


def upper_half(index: int) -> Instruction:
    """Load the upper half of a call's argument, as of an address."""
    return _load(_ARGUMENT + _ARGUMENT_SIZE * index + _ARGUMENT_SIZE // 2)


def only_bits(mask: int) -> Instruction:
    """Forget all other bits of what is loaded."""
    return (_AND, 0, 0, mask)


def allow() -> Instruction:
    return _give(_ALLOW)


def fail(number: int) -> Instruction:
    """The call fails with this errno."""
    return _give(_ERRNO | number)


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _give(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)
