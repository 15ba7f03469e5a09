"""Reads squashfs images, version 4.0, as the kernel's documentation lays the format down.

An image is an untrusted file: whatever it says of itself is held against the file's
end and against bounds. `InvalidInput` says that it can't be read.
"""

import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import BinaryIO

from msgspec import Struct

from appliance.errors import InvalidInput

MAGIC = b"hsqs"
_SUPER = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_METADATA = 8192
_UNPACKED_METADATA = 0x8000
_UNPACKED_BLOCK = 1 << 24
_FRAGMENT = struct.Struct("<QII")
_NO_FRAGMENT = 0xFFFFFFFF
_BLOCK_SIZES = frozenset(1 << bits for bits in range(12, 21))
_XZ_MEMORY = 128 * 1024 * 1024
_COMPRESSORS = ("", "gzip", "lzma", "lzo", "xz", "lz4", "zstd")


class Super(Struct, frozen=True):
    """What the first block says: places are bytes from the image's beginning."""

    block_size: int
    fragments: int
    compressor: int
    root: int
    inodes: int
    folders: int
    fragment_table: int


class Image:
    """An open image. `file` must not change while it is read.

    No more than `most` bytes of it are unpacked, however often it leads to the same blocks.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._left = most
        self.super = _read_super(file)
        self._packer = _unpacker(self.super.compressor)
        # Neighbours share blocks: without this each would be unpacked again and again.
        self._block_at = lru_cache(256)(self._read_block)
        self._fragment_block = lru_cache(8)(self._data)

    def metadata(self, table: int, block: int, offset: int) -> "Cursor":
        """What begins `offset` bytes into the unpacked block that lies `block` after `table`."""
        return Cursor(self._block_at, table + block, offset)

    def content(
        self, start: int, size: int, blocks: "Cursor", fragment: tuple[int, int]
    ) -> Iterator[bytes]:
        """A file's bytes, block by block; `blocks` gives the blocks' sizes one by one.

        `fragment` is the number of the block that holds its end with others' and the place in
        it; the number is 0xFFFFFFFF where there is none.
        """
        number, offset = fragment
        whole = self.super.block_size
        while size >= whole or (size and number == _NO_FRAGMENT):
            stored = blocks.number("<I")
            wanted = min(size, whole)
            data = self._data(start, stored) if stored else bytes(wanted)
            if len(data) != wanted:
                raise damaged("a block is not as long as it says")
            yield data
            start += stored & ~_UNPACKED_BLOCK
            size -= wanted
        if size:
            yield self._fragment(number, offset, size)

    def _fragment(self, number: int, offset: int, size: int) -> bytes:
        if number >= self.super.fragments:
            raise damaged("a file ends in a block that is not there")
        per_block = _METADATA // _FRAGMENT.size
        place = self._bytes(self.super.fragment_table + number // per_block * 8, 8)
        (table,) = struct.unpack("<Q", place)
        cursor = self.metadata(table, 0, number % per_block * _FRAGMENT.size)
        start, stored, _ = _FRAGMENT.unpack(cursor.read(_FRAGMENT.size))
        data = self._fragment_block(start, stored)[offset : offset + size]
        if len(data) != size:
            raise damaged("a file's end is not as long as it says")
        return data

    def _data(self, start: int, stored: int) -> bytes:
        length = stored & ~_UNPACKED_BLOCK
        if length > self.super.block_size:
            raise damaged("a block is larger than it may be")
        packed = self._bytes(start, length)
        if stored & _UNPACKED_BLOCK:
            return packed
        return self._unpack(packed, self.super.block_size)

    def _unpack(self, packed: bytes, most: int) -> bytes:
        data = self._packer(packed, most)
        self._left -= len(data)
        if self._left < 0:
            raise damaged("the same parts of it are to be unpacked again and again")
        return data

    def _read_block(self, start: int) -> tuple[bytes, int]:
        (head,) = struct.unpack("<H", self._bytes(start, 2))
        length = head & ~_UNPACKED_METADATA
        packed = self._bytes(start + 2, length)
        data = packed if head & _UNPACKED_METADATA else self._unpack(packed, _METADATA)
        if len(data) > _METADATA:
            raise damaged("a block of its tables is larger than it may be")
        return data, start + 2 + length

    def _bytes(self, start: int, length: int) -> bytes:
        # Beyond what a file can be, seek itself would fail.
        if start >= 1 << 62:
            raise damaged("it points beyond its end")
        self._file.seek(start)
        data = self._file.read(length)
        if len(data) != length:
            raise damaged("it points beyond its end")
        return data


class Cursor:
    """Reads on through a table's unpacked blocks."""

    def __init__(self, block_at: Callable[[int], tuple[bytes, int]], at: int, offset: int) -> None:
        self._block_at = block_at
        self._data, self._next = block_at(at)
        self._offset = offset
        if offset > len(self._data):
            raise damaged("a table is shorter than it says")

    def read(self, size: int) -> bytes:
        """Exactly that many bytes, at most 64 KiB at a time."""
        if size > 1 << 16:
            raise damaged("a part of a table is larger than it may be")
        taken = bytearray()
        while len(taken) < size:
            if self._offset == len(self._data):
                self._data, self._next = self._block_at(self._next)
                self._offset = 0
                if not self._data:
                    raise damaged("a table has an empty block")
            piece = self._data[self._offset : self._offset + size - len(taken)]
            self._offset += len(piece)
            taken += piece
        return bytes(taken)

    def numbers(self, layout: str) -> tuple[int, ...]:
        """The next numbers, laid out as `struct` names it."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        return self.numbers(layout)[0]


def damaged(what: str) -> InvalidInput:
    return InvalidInput(f"the squashfs image is damaged: {what}; nothing was added")


def _read_super(file: BinaryIO) -> Super:
    file.seek(0)
    start = file.read(_SUPER.size)
    if len(start) != _SUPER.size or not start.startswith(MAGIC):
        raise damaged("it has no beginning")
    fields = _SUPER.unpack(start)
    block_size, fragments, compressor = fields[3:6]
    version = fields[9:11]
    if version != (4, 0):
        raise InvalidInput(
            f"the squashfs image is of version {version[0]}.{version[1]}; "
            "make it anew with mksquashfs 4.0 or later"
        )
    if block_size not in _BLOCK_SIZES:
        raise damaged("its blocks have an impossible size")
    root, _, _, _, inodes, folders, fragment_table, _ = fields[11:]
    return Super(block_size, fragments, compressor, root, inodes, folders, fragment_table)


def _unpacker(compressor: int) -> Callable[[bytes, int], bytes]:
    known = {1: _inflate, 2: _unpack_lzma, 4: _unpack_xz}
    if compressor in known:
        return known[compressor]
    named = dict(enumerate(_COMPRESSORS)).get(compressor, f"method {compressor}")
    raise InvalidInput(
        f"the squashfs image is packed with {named}, which can't be read; "
        "make it with mksquashfs -comp xz or -comp gzip, or unpack it with unsquashfs and give "
        "the folder"
    )


def _inflate(packed: bytes, most: int) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise damaged(str(error)) from None
    return _bounded(data, most)


def _unpack_lzma(packed: bytes, most: int) -> bytes:
    return _by_lzma(lzma.FORMAT_ALONE, packed, most)


def _unpack_xz(packed: bytes, most: int) -> bytes:
    return _by_lzma(lzma.FORMAT_XZ, packed, most)


def _by_lzma(layout: int, packed: bytes, most: int) -> bytes:
    try:
        data = lzma.LZMADecompressor(layout, memlimit=_XZ_MEMORY).decompress(packed, most + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise damaged(str(error)) from None
    return _bounded(data, most)


def _bounded(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise damaged("a block unpacks to more than it may")
    return data
