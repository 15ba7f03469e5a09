"""The files of a root file system that is given as a squashfs image."""

import struct
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from msgspec import Struct

from appliance.sandbox.rootfs.formats.entries import Bounds, Entries, Entry, Kind, parts
from appliance.sandbox.rootfs.formats.squashfs_reader import MAGIC, Cursor, Image, damaged

_HEADER = "<HHHHII"
_FOLDER, _FILE, _SYMLINK = 1, 2, 3
# An inode of the long form has the short form's number and seven more.
_LONG = 7
_LAST_TYPE = 14
# The size of a folder counts these: its own name and its parent's, which are not listed.
_FOLDER_EXTRA = 3
# The ends of files share blocks, and these are not read in the order in which they lie.
_TIMES_UNPACKED = 8


class _Inode(Struct, frozen=True):
    """One file, folder or link: `long` tells which of the two forms `cursor` goes on in."""

    type: int
    long: bool
    mode: int
    number: int
    cursor: Cursor


def looks_like_one(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(MAGIC)) == MAGIC


def entries(file: BinaryIO, bounds: Bounds) -> Entries:
    """Everything in the image, folders before what is in them. Raises InvalidInput."""
    image = Image(file, _TIMES_UNPACKED * bounds.archive_size)
    seen, names = set[int](), dict[int, str]()
    waiting = [("", image.super.root)]
    while waiting:
        base, place = waiting.pop()
        if place in seen:
            raise damaged("a folder is in it twice")
        seen.add(place)
        for name, reference in _listed(image, _inode(image, place)):
            path = f"{base}{name}"
            parts(path)
            inode = _inode(image, reference)
            if inode.type == _FOLDER:
                waiting.append((f"{path}/", reference))
            yield _entry(image, path, inode, names)


def _entry(image: Image, path: str, inode: _Inode, names: dict[int, str]) -> Entry:
    if inode.type == _FOLDER:
        return Entry(path, Kind.FOLDER)
    if inode.type == _SYMLINK:
        _, length = inode.cursor.numbers("<II")
        return Entry(path, Kind.SYMLINK, target=_text(inode.cursor.read(length)))
    if inode.type != _FILE:
        return Entry(path, Kind.OTHER)
    return _file(image, path, inode, names)


def _file(image: Image, path: str, inode: _Inode, names: dict[int, str]) -> Entry:
    if inode.long:
        start, size, _, links, number, offset, _ = inode.cursor.numbers("<QQQIIII")
    else:
        start, number, offset, size = inode.cursor.numbers("<IIII")
        links = 1
    if links > 1:
        first = names.setdefault(inode.number, path)
        if first != path:
            return Entry(path, Kind.LINK, target=first)
    content = partial(image.content, start, size, inode.cursor, (number, offset))
    return Entry(path, Kind.FILE, bool(inode.mode & 0o111), size, content=content)


def _inode(image: Image, reference: int) -> _Inode:
    cursor = image.metadata(image.super.inodes, reference >> 16, reference & 0xFFFF)
    type_, mode, _, _, _, number = cursor.numbers(_HEADER)
    if not 1 <= type_ <= _LAST_TYPE:
        raise damaged(f"an inode has the unknown type {type_}")
    long = type_ > _LONG
    return _Inode(type_ - _LONG if long else type_, long, mode, number, cursor)


def _listed(image: Image, inode: _Inode) -> Iterator[tuple[str, int]]:
    """Names in a folder, each with the reference of its inode."""
    if inode.type != _FOLDER:
        raise damaged("its root is no folder")
    if inode.long:
        _, size, block, _, _, offset, _ = inode.cursor.numbers("<IIIIHHI")
    else:
        block, _, size, offset, _ = inode.cursor.numbers("<IIHHI")
    left = size - _FOLDER_EXTRA
    if left <= 0:
        return
    cursor = image.metadata(image.super.folders, block, offset)
    while left > 0:
        count, inodes, _ = cursor.numbers("<III")
        left -= struct.calcsize("<III")
        for _ in range(count + 1):
            at, _, _, length = cursor.numbers("<HhHH")
            name = _name(cursor.read(length + 1))
            left -= struct.calcsize("<HhHH") + length + 1
            if left < 0:
                raise damaged("a folder is longer than it says")
            yield name, inodes << 16 | at


def _name(name: bytes) -> str:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise damaged(f"a folder holds the name {name!r}")
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
