"""What the archive of a workspace holds. A hostile program may have written it."""

import os
import re
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO

from msgspec import Struct

from appliance.spi import workspace_archive as archive

_MAX_PART_BYTES = 255
_BAD_PART = re.compile(r"(^|/)(\.{0,2})(/|$)|\0")


class EntryKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"


class Entry(Struct, frozen=True):
    """One file, folder or symbolic link; `target` is where a link leads.

    `position` is that of its frame, `content` that of the first frame after the file's own.
    """

    kind: EntryKind
    mode: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    position: int = 0
    content: int = 0


class ArchiveIndex:
    """The entries by path. `removed` are the paths of the base that are gone.

    `content_bytes` is what the files take, in whole pages, `sizes` what each content takes by its
    position.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.removed: set[str] = set()
        self.content_bytes = 0
        self.sizes: dict[int, int] = {}

    def children(self, folder: str) -> Iterator[tuple[str, Entry]]:
        """Name and entry of what lies in a folder ("": the workspace)."""
        prefix = f"{folder}/" if folder else ""
        for path, entry in self.entries.items():
            name = path[len(prefix) :]
            if path.startswith(prefix) and name and "/" not in name:
                yield name, entry


def read_index(file: Path, size: int, max_entries: int) -> ArchiveIndex:
    """The index of the first `size` bytes. Raises ValueError for a malformed archive."""
    index = ArchiveIndex()
    if not size:
        return index
    with file.open("rb") as source:
        current, written = Entry(EntryKind.FOLDER), 0
        for position, kind, payload in _frames(source, size):
            if kind == b"C":
                written = _add_content(index.sizes, current, payload, written)
                continue
            current, written = _add_entry(index, kind, payload, position), 0
            if len(index.entries) + len(index.removed) > max_entries:
                raise ValueError("the archive has more entries than its limit")
    used = {entry.content for entry in index.entries.values()}
    index.content_bytes = sum(count for content, count in index.sizes.items() if content in used)
    return index


def read_content(source: IO[bytes], entry: Entry, end: int) -> Iterator[bytes]:
    """The content of a file in pieces, holes included. `end` is the size of the archive."""
    source.seek(entry.content)
    done = 0
    for _, kind, payload in _frames(source, end, position=entry.content, with_content=True):
        if kind != b"C":
            break
        (offset,) = archive.CONTENT.unpack_from(payload)
        yield from _zeros(offset - done)
        yield payload[archive.CONTENT.size :]
        done = offset + len(payload) - archive.CONTENT.size
    yield from _zeros(entry.size - done)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, archive.CHUNK_BYTES))
        count -= archive.CHUNK_BYTES


def _frames(
    source: IO[bytes], end: int, position: int = 0, *, with_content: bool = False
) -> Iterator[tuple[int, bytes, bytes]]:
    """Position, kind and payload of each frame; of content, its first bytes only by default.

    The payload of a C frame without content is its offset and its length, 8 bytes each.
    """
    while position < end:
        header = source.read(archive.HEADER.size)
        if len(header) < archive.HEADER.size:
            raise ValueError("the archive is cut off")
        kind, length = archive.HEADER.unpack(header)
        if length > archive.MAX_PAYLOAD or position + len(header) + length > end:
            raise ValueError("a frame of the archive is too long")
        if kind == b"C" and not with_content:
            if length < archive.CONTENT.size:
                raise ValueError("a frame of the archive is too short")
            payload = source.read(archive.CONTENT.size)
            payload += archive.CONTENT.pack(length - archive.CONTENT.size)
            source.seek(length - archive.CONTENT.size, os.SEEK_CUR)
        else:
            payload = source.read(length)
        yield position, kind, payload
        position += archive.HEADER.size + length


def _add_content(sizes: dict[int, int], file: Entry, payload: bytes, written: int) -> int:
    """Count a part of a file's content, which must follow what was written; where it ends."""
    offset, length = struct.unpack(">QQ", payload)
    end = offset + length
    if file.kind is not EntryKind.FILE or not written <= offset < end <= file.size:
        raise ValueError("the content of a file is out of place")
    pages = -(-length // archive.PAGE_BYTES)
    sizes[file.content] = sizes.get(file.content, 0) + pages * archive.PAGE_BYTES
    return end


def _add_entry(index: ArchiveIndex, kind: bytes, payload: bytes, position: int) -> Entry:
    try:
        path, entry = _decode_entry(index, kind, payload, position)
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise ValueError("an entry of the archive is malformed") from error
    check_path(path)
    if kind == b"X":
        index.removed.add(path)
        index.entries.pop(path, None)
    else:
        index.entries[path] = entry
    return entry


def _decode_entry(
    index: ArchiveIndex, kind: bytes, payload: bytes, position: int
) -> tuple[str, Entry]:
    content = position + archive.HEADER.size + len(payload)
    if kind == b"D":
        mode, mtime = archive.FOLDER.unpack_from(payload)
        path = payload[archive.FOLDER.size :].decode()
        return path, Entry(EntryKind.FOLDER, mode, mtime, position=position)
    if kind == b"F":
        mode, mtime, size = archive.FILE.unpack_from(payload)
        path = payload[archive.FILE.size :].decode()
        return path, Entry(EntryKind.FILE, mode, mtime, size, "", position, content)
    if kind == b"L":
        name, target = archive.split_link(payload)
        shown = target[: archive.MAX_TARGET_BYTES].decode(errors="replace")
        return name.decode(), Entry(EntryKind.LINK, 0o777, target=shown, position=position)
    if kind == b"H":
        name, target = archive.split_link(payload)
        first = index.entries[target.decode()]
        if first.kind is not EntryKind.FILE:
            raise ValueError("a link of the archive leads to no file")
        mode, mtime, size = first.mode, first.mtime_ns, first.size
        return name.decode(), Entry(EntryKind.FILE, mode, mtime, size, "", position, first.content)
    if kind == b"X":
        return payload.decode(), Entry(EntryKind.FOLDER, position=position)
    raise ValueError("a frame of the archive has an unknown kind")


def check_path(path: str) -> None:
    """Raises ValueError unless it is a path below the workspace."""
    parts = path.split("/")
    too_long = len(path.encode()) > archive.MAX_PATH_BYTES
    if too_long or _BAD_PART.search(path) or any(map(_is_too_long, parts)):
        raise ValueError("a path of the archive is invalid")


def _is_too_long(part: str) -> bool:
    return len(part.encode()) > _MAX_PART_BYTES
