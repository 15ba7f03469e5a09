"""What an archive is packed with: found by its first bytes, unpacked piece by piece."""

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import MIB, PIECE

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What xz itself makes wants 65 MiB at most, unless it is told otherwise.
_XZ_MIB = 256
_START = 512
_ZSTD = b"\x28\xb5\x2f\xfd"


class Stream(Protocol):
    """What was packed, from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """That many bytes; less only at the end."""
        ...


def start(file: BinaryIO) -> bytes:
    """The first bytes; the file is at its beginning again."""
    file.seek(0)
    found = file.read(_START)
    file.seek(0)
    return found


def is_packed(first: bytes) -> bool:
    return first.startswith((_ZSTD, *(magic for magic, _ in _PACKERS)))


def unpacked(file: BinaryIO) -> "contextlib.AbstractContextManager[Stream]":
    """The content of a file, unpacked if it is packed. Raises InvalidInput for zstd."""
    first = start(file)
    if first.startswith(_ZSTD):
        raise InvalidInput("archives packed with zstd can't be read; unpack it first: zstd -d FILE")
    for magic, open_ in _PACKERS:
        if first.startswith(magic):
            return open_(file)
    return contextlib.nullcontext(file)


class _Xz(io.RawIOBase):
    """As lzma.LZMAFile, but with a bound on the memory that the packed file may ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = _xz_unpacker()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer", /) -> int:
        view = memoryview(buffer)
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        while True:
            packed = self._packed()
            if packed is None:
                return b""
            try:
                data = self._unpacker.decompress(packed, most)
            except lzma.LZMAError as error:
                if "Memory usage limit" not in str(error):
                    raise
                raise InvalidInput(
                    f"the archive wants more than {_XZ_MIB} MiB of memory to be unpacked; "
                    "pack it with xz -9 or less"
                ) from None
            if data:
                return data

    def _packed(self) -> bytes | None:
        """What is to be unpacked next; None at the end. A file may hold several streams."""
        if not self._unpacker.eof:
            more = self._file.read(PIECE) if self._unpacker.needs_input else b""
            if self._unpacker.needs_input and not more:
                raise EOFError("it has no end")
            return more
        more = self._unpacker.unused_data.lstrip(b"\0")
        while not more:
            piece = self._file.read(PIECE)
            if not piece:
                return None
            more = piece.lstrip(b"\0")
        self._unpacker = _xz_unpacker()
        return more


def _xz_unpacker() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MIB * MIB)


def _open_gzip(file: BinaryIO) -> "contextlib.AbstractContextManager[Stream]":
    return gzip.GzipFile(fileobj=file)


def _open_xz(file: BinaryIO) -> "contextlib.AbstractContextManager[Stream]":
    return io.BufferedReader(_Xz(file), PIECE)


def _open_bz2(file: BinaryIO) -> "contextlib.AbstractContextManager[Stream]":
    return bz2.BZ2File(file)


_PACKERS: tuple[
    tuple[bytes, Callable[[BinaryIO], "contextlib.AbstractContextManager[Stream]"]], ...
] = ((b"\x1f\x8b", _open_gzip), (b"\xfd7zXZ\x00", _open_xz), (b"BZh", _open_bz2))
