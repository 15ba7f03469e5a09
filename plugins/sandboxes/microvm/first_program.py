"""The first program of the guest: a few system calls in a row, as an executable of our own.

What runs before there is a root file system has to travel in the initramfs. All it does
is load drivers, mount, and start the next program; for that no shell and no C library is
needed, only the calls themselves, written out one after the other in machine code (x86-64,
System V ABI, an ELF file with one segment).

A call that must succeed and does not ends the program with its number in the list (from 1
on) as exit code; the kernel prints that as it panics.
"""

import struct
from collections.abc import Sequence

from msgspec import Struct

_BASE = 0x400000
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_HEADERS = _ELF_HEADER.size + _PROGRAM_HEADER.size
_EXIT = 60
_SYSCALL = b"\x0f\x05"
# movabs into rdi, rsi, rdx, r10, r8, r9: where the kernel expects the arguments.
_MOVES = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")

Argument = int | bytes | Sequence[bytes]


class Call(Struct, frozen=True):
    """A system call. Bytes are handed over by address, as C strings; so are lists of them."""

    number: int
    arguments: tuple[Argument, ...]
    required: bool = True


def program(calls: Sequence[Call]) -> bytes:
    """The executable that does these calls; the last should not return."""
    size = sum(len(_code(call, [0] * len(call.arguments), 0)) for call in calls)
    data = _Data(_BASE + _HEADERS + size)
    code = b""
    for index, call in enumerate(calls, start=1):
        code += _code(call, [data.address(argument) for argument in call.arguments], index)
    return _headers(_HEADERS + size + len(data.content)) + code + bytes(data.content)


class _Data:
    """What lies behind the code."""

    def __init__(self, start: int) -> None:
        self.content = bytearray()
        self._start = start

    def address(self, argument: Argument) -> int:
        """The value for the register: the number itself, or where the bytes were put."""
        if isinstance(argument, int):
            return argument
        if isinstance(argument, bytes):
            return self._put(argument + b"\0")
        pointers = [self.address(word) for word in argument]
        return self._put(struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))

    def _put(self, value: bytes) -> int:
        self.content += bytes(-len(self.content) % 16)
        at = self._start + len(self.content)
        self.content += value
        return at


def _code(call: Call, values: Sequence[int], index: int) -> bytes:
    moves = zip(_MOVES, values, strict=False)
    code = b"".join(move + struct.pack("<Q", value) for move, value in moves)
    code += _into_eax(call.number) + _SYSCALL
    return code + (_end_unless_done(index) if call.required else b"")


def _end_unless_done(index: int) -> bytes:
    end = b"\xbf" + struct.pack("<I", index) + _into_eax(_EXIT) + _SYSCALL
    # test rax, rax; jns over the end
    return b"\x48\x85\xc0\x79" + bytes([len(end)]) + end


def _into_eax(number: int) -> bytes:
    return b"\xb8" + struct.pack("<I", number)


def _headers(size: int) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    entry = _BASE + _HEADERS
    executable, x86_64 = 2, 62
    elf = _ELF_HEADER.pack(
        *(ident, executable, x86_64, 1, entry, _ELF_HEADER.size, 0, 0),
        *(_ELF_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    load, read_execute = 1, 5
    return elf + _PROGRAM_HEADER.pack(load, read_execute, 0, _BASE, _BASE, size, size, 0x1000)
