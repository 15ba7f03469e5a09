"""Reads squashfs images, version 4.0 (Linux kernel, Documentation/filesystems/squashfs.rst).

An image is untrusted: all offsets and sizes are checked against the end of the file and against
limits. Raises InvalidInput for an image that can't be read.
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
_METADATA_BYTES = 8192
_METADATA_UNCOMPRESSED = 0x8000
_BLOCK_UNCOMPRESSED = 1 << 24
_FRAGMENT = struct.Struct("<QII")
_NO_FRAGMENT = 0xFFFFFFFF
_BLOCK_SIZES = frozenset(1 << bits for bits in range(12, 21))
_XZ_MEMORY = 128 * 1024 * 1024
_COMPRESSORS = ("", "gzip", "lzma", "lzo", "xz", "lz4", "zstd")


class Superblock(Struct, frozen=True):
    """Fields of the superblock: positions are byte offsets from the start of the image."""

    block_size: int
    fragments: int
    compressor: int
    root: int
    inodes: int
    folders: int
    fragment_table: int


class SquashfsImage:
    """An open image. `file` must not change while it is read.

    At most `limit` bytes are decompressed in all, however often the same blocks are referred to.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._remaining_bytes = limit
        self.super = _read_super(file)
        self._decompress = _select_decompressor(self.super.compressor)
        # Neighboring entries share blocks: without a cache each would be decompressed repeatedly.
        self._block_at = lru_cache(256)(self._read_block)
        self._fragment_block = lru_cache(8)(self._data)

    def metadata(self, table: int, block: int, offset: int) -> "MetadataCursor":
        """A cursor at `offset` in the decompressed block that lies `block` bytes after `table`."""
        return MetadataCursor(self._block_at, table + block, offset)

    def content(
        self, start: int, size: int, blocks: "MetadataCursor", fragment: tuple[int, int]
    ) -> Iterator[bytes]:
        """A file's bytes, block by block; `blocks` yields the sizes of the blocks.

        `fragment` is the number of the fragment block that holds the file's end, 0xFFFFFFFF for
        none, and the offset in it.
        """
        number, offset = fragment
        whole = self.super.block_size
        while size >= whole or (size and number == _NO_FRAGMENT):
            stored = blocks.number("<I")
            expected = min(size, whole)
            data = self._data(start, stored) if stored else bytes(expected)
            if len(data) != expected:
                raise corrupt_image_error("a block has another length than its header says")
            yield data
            start += stored & ~_BLOCK_UNCOMPRESSED
            size -= expected
        if size:
            yield self._fragment(number, offset, size)

    def _fragment(self, number: int, offset: int, size: int) -> bytes:
        if number >= self.super.fragments:
            raise corrupt_image_error("a file refers to a missing fragment block")
        per_block = _METADATA_BYTES // _FRAGMENT.size
        entry = self._bytes(self.super.fragment_table + number // per_block * 8, 8)
        (table,) = struct.unpack("<Q", entry)
        cursor = self.metadata(table, 0, number % per_block * _FRAGMENT.size)
        start, stored, _ = _FRAGMENT.unpack(cursor.read(_FRAGMENT.size))
        data = self._fragment_block(start, stored)[offset : offset + size]
        if len(data) != size:
            raise corrupt_image_error("a fragment is shorter than its header says")
        return data

    def _data(self, start: int, stored: int) -> bytes:
        length = stored & ~_BLOCK_UNCOMPRESSED
        if length > self.super.block_size:
            raise corrupt_image_error("a block exceeds the block size")
        packed = self._bytes(start, length)
        if stored & _BLOCK_UNCOMPRESSED:
            return packed
        return self._decompress_block(packed, self.super.block_size)

    def _decompress_block(self, packed: bytes, limit: int) -> bytes:
        data = self._decompress(packed, limit)
        self._remaining_bytes -= len(data)
        if self._remaining_bytes < 0:
            raise corrupt_image_error("it refers to the same blocks too often")
        return data

    def _read_block(self, start: int) -> tuple[bytes, int]:
        (head,) = struct.unpack("<H", self._bytes(start, 2))
        length = head & ~_METADATA_UNCOMPRESSED
        packed = self._bytes(start + 2, length)
        data = (
            packed
            if head & _METADATA_UNCOMPRESSED
            else self._decompress_block(packed, _METADATA_BYTES)
        )
        if len(data) > _METADATA_BYTES:
            raise corrupt_image_error("a metadata block exceeds 8 KiB")
        return data, start + 2 + length

    def _bytes(self, start: int, length: int) -> bytes:
        # seek itself fails for larger offsets.
        if start >= 1 << 62:
            raise corrupt_image_error("it points beyond its end")
        self._file.seek(start)
        data = self._file.read(length)
        if len(data) != length:
            raise corrupt_image_error("it points beyond its end")
        return data


class MetadataCursor:
    """Reads consecutively from the decompressed blocks of a metadata table."""

    def __init__(self, block_at: Callable[[int], tuple[bytes, int]], at: int, offset: int) -> None:
        self._block_at = block_at
        self._data, self._next = block_at(at)
        self._offset = offset
        if offset > len(self._data):
            raise corrupt_image_error("a metadata table is too short")

    def read(self, size: int) -> bytes:
        """Exactly that many bytes, at most 64 KiB."""
        if size > 1 << 16:
            raise corrupt_image_error("an entry of a metadata table exceeds 64 KiB")
        data_read = bytearray()
        while len(data_read) < size:
            if self._offset == len(self._data):
                self._data, self._next = self._block_at(self._next)
                self._offset = 0
                if not self._data:
                    raise corrupt_image_error("a metadata block is empty")
            piece = self._data[self._offset : self._offset + size - len(data_read)]
            self._offset += len(piece)
            data_read += piece
        return bytes(data_read)

    def numbers(self, layout: str) -> tuple[int, ...]:
        """The next numbers in the given `struct` layout."""
        return struct.unpack(layout, self.read(struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        return self.numbers(layout)[0]


def corrupt_image_error(what: str) -> InvalidInput:
    return InvalidInput(f"the squashfs image is damaged: {what}; nothing was added")


def _read_super(file: BinaryIO) -> Superblock:
    file.seek(0)
    start = file.read(_SUPER.size)
    if len(start) != _SUPER.size or not start.startswith(MAGIC):
        raise corrupt_image_error("it has no superblock")
    fields = _SUPER.unpack(start)
    block_size, fragments, compressor = fields[3:6]
    version = fields[9:11]
    if version != (4, 0):
        raise InvalidInput(
            f"the squashfs image has version {version[0]}.{version[1]}; "
            "recreate it with mksquashfs 4.0 or later"
        )
    if block_size not in _BLOCK_SIZES:
        raise corrupt_image_error("its block size is invalid")
    root, _, _, _, inodes, folders, fragment_table, _ = fields[11:]
    return Superblock(block_size, fragments, compressor, root, inodes, folders, fragment_table)


def _select_decompressor(compressor: int) -> Callable[[bytes, int], bytes]:
    methods = {1: _decompress_zlib, 2: _decompress_lzma_alone, 4: _decompress_xz}
    if compressor in methods:
        return methods[compressor]
    method = dict(enumerate(_COMPRESSORS)).get(compressor, f"method {compressor}")
    raise InvalidInput(
        f"the squashfs image is compressed with {method}, which is not supported; "
        "create it with mksquashfs -comp xz or -comp gzip, or unpack it with unsquashfs and add "
        "the folder"
    )


def _decompress_zlib(packed: bytes, limit: int) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise corrupt_image_error(str(error)) from None
    return _check_size(data, limit)


def _decompress_lzma_alone(packed: bytes, limit: int) -> bytes:
    return _decompress_lzma(lzma.FORMAT_ALONE, packed, limit)


def _decompress_xz(packed: bytes, limit: int) -> bytes:
    return _decompress_lzma(lzma.FORMAT_XZ, packed, limit)


def _decompress_lzma(layout: int, packed: bytes, limit: int) -> bytes:
    try:
        data = lzma.LZMADecompressor(layout, memlimit=_XZ_MEMORY).decompress(packed, limit + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise corrupt_image_error(str(error)) from None
    return _check_size(data, limit)


def _check_size(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise corrupt_image_error("a block decompresses to more than the block size")
    return data
