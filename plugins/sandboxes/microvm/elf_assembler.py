"""Assembles a static x86-64 ELF executable that makes a fixed sequence of system calls.

The initramfs needs a program (/init) that loads drivers, mounts the root file system and executes
PID 1 there. It needs six system calls and neither a C library nor a shell. It is assembled here,
and not compiled from C at build time, because the product also runs from source and as a pure
wheel, where nothing is compiled and no compiler is present; and because the system calls depend on
the host's kernel (one init_module for each driver).

Layout of the file, which the kernel maps as one segment at _BASE, readable and executable:

    ELF header      64 bytes (see elf(5)): ET_EXEC, EM_X86_64, one program header
    program header  56 bytes: PT_LOAD of the whole file
    code            for each call
                        movabs $argument, %rdi|rsi|rdx|r10|r8|r9    10 bytes per argument
                        mov $number, %eax; syscall                   7 bytes
                    and if it must succeed, exit(index) unless rax >= 0:
                        test %rax, %rax; jns over; mov $index, %edi; mov $60, %eax; syscall
    data            strings and arrays of pointers, aligned to 16 bytes

A required call that fails ends the program with its index in the sequence, from 1 on, as exit
code. The kernel prints that code as it panics.
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
# movabs to rdi, rsi, rdx, r10, r8, r9: the registers of the arguments.
_MOVABS = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")

Argument = int | bytes | Sequence[bytes]


class SystemCall(Struct, frozen=True):
    """Bytes are passed by address, as C strings; sequences of bytes as NULL-terminated arrays."""

    number: int
    arguments: tuple[Argument, ...]
    required: bool = True


def assemble_elf(calls: Sequence[SystemCall]) -> bytes:
    """The executable that makes these calls; the last one should not return."""
    code_size = sum(len(_code(call, [0] * len(call.arguments), 0)) for call in calls)
    data = _DataSection(_BASE + _HEADERS + code_size)
    code = b""
    for index, call in enumerate(calls, start=1):
        code += _code(call, [data.place(argument) for argument in call.arguments], index)
    return _headers(_HEADERS + code_size + len(data.content)) + code + bytes(data.content)


class _DataSection:
    """The bytes behind the code; `start` is their address."""

    def __init__(self, start: int) -> None:
        self.content = bytearray()
        self._start = start

    def place(self, argument: Argument) -> int:
        """The value of the register: the number itself, or the address of the bytes."""
        if isinstance(argument, int):
            return argument
        if isinstance(argument, bytes):
            return self._append(argument + b"\0")
        pointers = [self.place(word) for word in argument]
        return self._append(struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))

    def _append(self, value: bytes) -> int:
        self.content += bytes(-len(self.content) % 16)
        address = self._start + len(self.content)
        self.content += value
        return address


def _code(call: SystemCall, values: Sequence[int], index: int) -> bytes:
    moves = zip(_MOVABS, values, strict=False)
    code = b"".join(move + struct.pack("<Q", value) for move, value in moves)
    code += _mov_eax(call.number) + _SYSCALL
    return code + (_exit_on_error(index) if call.required else b"")


def _exit_on_error(index: int) -> bytes:
    mov_edi = b"\xbf" + struct.pack("<I", index)
    exit_call = mov_edi + _mov_eax(_EXIT) + _SYSCALL
    test_rax, jns = b"\x48\x85\xc0", b"\x79"
    return test_rax + jns + bytes([len(exit_call)]) + exit_call


def _mov_eax(number: int) -> bytes:
    return b"\xb8" + struct.pack("<I", number)


def _headers(size: int) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian
    entry = _BASE + _HEADERS
    et_exec, em_x86_64 = 2, 62
    elf = _ELF_HEADER.pack(
        *(ident, et_exec, em_x86_64, 1, entry, _ELF_HEADER.size, 0, 0),
        *(_ELF_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    pt_load, read_execute = 1, 5
    return elf + _PROGRAM_HEADER.pack(pt_load, read_execute, 0, _BASE, _BASE, size, size, 0x1000)
