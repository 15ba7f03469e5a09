"""Assembler for system-call filters: classic BPF, as seccomp(2) takes it (see linux/filter.h).

A block is a list of instructions. Jumps lead to places within a block or to its end, or
the filter returns, so blocks can be concatenated.
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
_RETURN_CODE = 0x06  # BPF_RET | BPF_K

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


def is_supported(machine: str) -> bool:
    """Whether filters can be built for this architecture (`platform.machine()`)."""
    return machine in AUDIT_ARCH


def assemble(block: Block) -> bytes:
    """The program as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in block)


def reject_foreign_abi(machine: str) -> Block:
    """The start of every filter: kill the process at a call of a foreign ABI.

    Loads the number of the call.
    """
    foreign = run_if(AT_LEAST, _X32_BIT, [_return(_KILL_PROCESS)]) if machine == "x86_64" else []
    return [
        _load(_ARCH),
        (EQUAL, 1, 0, AUDIT_ARCH[machine]),
        _return(_KILL_PROCESS),
        _load(_NUMBER),
        *foreign,
    ]


def run_if(jump: int, operand: int, then: Block) -> Block:
    """Run `then` if the loaded value compares so with the operand."""
    return [(jump, 0, len(then), operand), *then]


def run_unless(jump: int, operand: int, then: Block) -> Block:
    """Run `then` if it does not compare so."""
    return [(jump, len(then), 0, operand), *then]


def return_for_each(values: Iterable[int], verdict: Instruction) -> Block:
    """Return the verdict if the loaded value is one of these."""
    return [line for value in values for line in run_if(EQUAL, value, [verdict])]


def load_argument(index: int) -> Instruction:
    """Load the lower 32 bits of an argument."""
    return _load(_ARGUMENT + _ARGUMENT_SIZE * index)


def load_argument_high(index: int) -> Instruction:
    """Load the upper 32 bits of an argument, such as an address."""
    return _load(_ARGUMENT + _ARGUMENT_SIZE * index + _ARGUMENT_SIZE // 2)


def mask_bits(mask: int) -> Instruction:
    """Clear all other bits of the loaded value."""
    return (_AND, 0, 0, mask)


def allow() -> Instruction:
    return _return(_ALLOW)


def fail_with(error: int) -> Instruction:
    """The call fails with this errno; with 0 it succeeds without effect."""
    return _return(_ERRNO | error)


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(action: int) -> Instruction:
    return (_RETURN_CODE, 0, 0, action)
