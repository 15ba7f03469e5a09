"""Compressed archives: detects the format by its first bytes and decompresses as a stream."""

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import CHUNK_BYTES, MIB

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Files compressed by xz need at most 65 MiB, unless it was given a custom dictionary size.
_XZ_MIB = 256
_START_BYTES = 512
_ZSTD = b"\x28\xb5\x2f\xfd"


class ByteStream(Protocol):
    """A stream that is read forward only."""

    def read(self, size: int, /) -> bytes:
        """That many bytes, fewer only at the end."""
        ...


def read_start(file: BinaryIO) -> bytes:
    """The first bytes; rewinds the file."""
    file.seek(0)
    start = file.read(_START_BYTES)
    file.seek(0)
    return start


def is_compressed(first: bytes) -> bool:
    return first.startswith((_ZSTD, *(magic for magic, _ in _OPENERS)))


def open_decompressed(file: BinaryIO) -> "contextlib.AbstractContextManager[ByteStream]":
    """The content of a file, decompressed if needed. Raises InvalidInput for zstd."""
    first = read_start(file)
    if first.startswith(_ZSTD):
        raise InvalidInput("zstd is not supported; decompress the archive first: zstd -d FILE")
    for magic, open_ in _OPENERS:
        if first.startswith(magic):
            return open_(file)
    return contextlib.nullcontext(file)


class _Xz(io.RawIOBase):
    """Like lzma.LZMAFile, with a limit on the memory that the compressed file may request."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = _make_decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer", /) -> int:
        view = memoryview(buffer)
        data = self._read_decompressed(len(view))
        view[: len(data)] = data
        return len(data)

    def _read_decompressed(self, limit: int) -> bytes:
        while True:
            packed = self._read_compressed()
            if packed is None:
                return b""
            try:
                data = self._decompressor.decompress(packed, limit)
            except lzma.LZMAError as error:
                if "Memory usage limit" not in str(error):
                    raise
                raise InvalidInput(
                    f"the archive needs more than {_XZ_MIB} MiB of memory for decompression; "
                    "compress it with xz -9 or less"
                ) from None
            if data:
                return data

    def _read_compressed(self) -> bytes | None:
        """Next compressed bytes; None at the end. A file may hold several streams."""
        if not self._decompressor.eof:
            more = self._file.read(CHUNK_BYTES) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not more:
                raise EOFError("unexpected end of file")
            return more
        more = self._decompressor.unused_data.lstrip(b"\0")
        while not more:
            piece = self._file.read(CHUNK_BYTES)
            if not piece:
                return None
            more = piece.lstrip(b"\0")
        self._decompressor = _make_decompressor()
        return more


def _make_decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MIB * MIB)


def _open_gzip(file: BinaryIO) -> "contextlib.AbstractContextManager[ByteStream]":
    return gzip.GzipFile(fileobj=file)


def _open_xz(file: BinaryIO) -> "contextlib.AbstractContextManager[ByteStream]":
    return io.BufferedReader(_Xz(file), CHUNK_BYTES)


def _open_bz2(file: BinaryIO) -> "contextlib.AbstractContextManager[ByteStream]":
    return bz2.BZ2File(file)


_OPENERS: tuple[
    tuple[bytes, Callable[[BinaryIO], "contextlib.AbstractContextManager[ByteStream]"]], ...
] = ((b"\x1f\x8b", _open_gzip), (b"\xfd7zXZ\x00", _open_xz), (b"BZh", _open_bz2))
