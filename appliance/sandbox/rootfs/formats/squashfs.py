"""Reads a squashfs image as archive entries: inodes, directories, hard links."""

import struct
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from msgspec import Struct

from appliance.sandbox.rootfs.formats.entries import (
    ArchiveEntry,
    ArchiveLimits,
    Entries,
    EntryKind,
    split_path,
)
from appliance.sandbox.rootfs.formats.squashfs_reader import (
    MAGIC,
    MetadataCursor,
    SquashfsImage,
    corrupt_image_error,
)

_HEADER = "<HHHHII"
_FOLDER, _FILE, _SYMLINK = 1, 2, 3
# An inode of the long form has the short form's number and seven more.
_LONG = 7
_LAST_TYPE = 14
# The size of a folder includes these bytes for `.` and `..`, which are not stored.
_FOLDER_EXTRA = 3
# File ends share fragment blocks, which are read in any order and so decompressed repeatedly.
_MAX_DECOMPRESSION_FACTOR = 8


class _Inode(Struct, frozen=True):
    """One file, folder or link: `long` says which of the two layouts follows at `cursor`."""

    type: int
    long: bool
    mode: int
    number: int
    cursor: MetadataCursor


def is_squashfs(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(MAGIC)) == MAGIC


def read_squashfs(file: BinaryIO, limits: ArchiveLimits) -> Entries:
    """All entries of the image, folders before their content. Raises InvalidInput."""
    image = SquashfsImage(file, _MAX_DECOMPRESSION_FACTOR * limits.archive_size)
    visited, names = set[int](), dict[int, str]()
    waiting = [("", image.super.root)]
    while waiting:
        base, folder_reference = waiting.pop()
        if folder_reference in visited:
            raise corrupt_image_error("a folder occurs twice")
        visited.add(folder_reference)
        for name, reference in _list_folder(image, _read_inode(image, folder_reference)):
            path = f"{base}{name}"
            split_path(path)
            inode = _read_inode(image, reference)
            if inode.type == _FOLDER:
                waiting.append((f"{path}/", reference))
            yield _entry(image, path, inode, names)


def _entry(image: SquashfsImage, path: str, inode: _Inode, names: dict[int, str]) -> ArchiveEntry:
    if inode.type == _FOLDER:
        return ArchiveEntry(path, EntryKind.FOLDER)
    if inode.type == _SYMLINK:
        _, length = inode.cursor.numbers("<II")
        return ArchiveEntry(path, EntryKind.SYMLINK, target=_decode(inode.cursor.read(length)))
    if inode.type != _FILE:
        return ArchiveEntry(path, EntryKind.OTHER)
    return _file(image, path, inode, names)


def _file(image: SquashfsImage, path: str, inode: _Inode, names: dict[int, str]) -> ArchiveEntry:
    if inode.long:
        start, size, _, links, number, offset, _ = inode.cursor.numbers("<QQQIIII")
    else:
        start, number, offset, size = inode.cursor.numbers("<IIII")
        links = 1
    if links > 1:
        first = names.setdefault(inode.number, path)
        if first != path:
            return ArchiveEntry(path, EntryKind.LINK, target=first)
    content = partial(image.content, start, size, inode.cursor, (number, offset))
    return ArchiveEntry(path, EntryKind.FILE, bool(inode.mode & 0o111), size, content=content)


def _read_inode(image: SquashfsImage, reference: int) -> _Inode:
    cursor = image.metadata(image.super.inodes, reference >> 16, reference & 0xFFFF)
    type_, mode, _, _, _, number = cursor.numbers(_HEADER)
    if not 1 <= type_ <= _LAST_TYPE:
        raise corrupt_image_error(f"an inode has the unknown type {type_}")
    long = type_ > _LONG
    return _Inode(type_ - _LONG if long else type_, long, mode, number, cursor)


def _list_folder(image: SquashfsImage, inode: _Inode) -> Iterator[tuple[str, int]]:
    """Names in a folder, each with its inode reference."""
    if inode.type != _FOLDER:
        raise corrupt_image_error("its root is no folder")
    if inode.long:
        _, size, block, _, _, offset, _ = inode.cursor.numbers("<IIIIHHI")
    else:
        block, _, size, offset, _ = inode.cursor.numbers("<IIHHI")
    remaining = size - _FOLDER_EXTRA
    if remaining <= 0:
        return
    cursor = image.metadata(image.super.folders, block, offset)
    while remaining > 0:
        count, inodes, _ = cursor.numbers("<III")
        remaining -= struct.calcsize("<III")
        for _ in range(count + 1):
            at, _, _, length = cursor.numbers("<HhHH")
            name = _decode_name(cursor.read(length + 1))
            remaining -= struct.calcsize("<HhHH") + length + 1
            if remaining < 0:
                raise corrupt_image_error("a folder is longer than its header says")
            yield name, inodes << 16 | at


def _decode_name(name: bytes) -> str:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise corrupt_image_error(f"a folder holds the name {name!r}")
    return _decode(name)


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
