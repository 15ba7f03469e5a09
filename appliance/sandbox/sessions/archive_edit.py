"""Adds files to the archive of a workspace. What is added counts once the session's record does."""

import os
import time
from pathlib import Path
from typing import IO

from msgspec import Struct

from appliance.errors import InvalidInput, PayloadTooLarge
from appliance.sandbox.sessions.archive_index import ArchiveIndex, EntryKind
from appliance.spi import workspace_archive as archive

_FILE_MODE, _EXECUTABLE_MODE, _FOLDER_MODE = 0o644, 0o755, 0o755


class NewFile(Struct, frozen=True):
    """A file to add; its path is valid."""

    path: str
    executable: bool = False


class FileAppender:
    """Appends one file behind the first `size` bytes of an archive. All methods block.

    `parents` are folders to create, `max_bytes` is the room for content. Call `write` with the
    content in pieces of any size, then `finish`; in any case `close`.
    """

    def __init__(
        self, file: Path, size: int, new: NewFile, parents: list[str], max_bytes: int
    ) -> None:
        """Raises OSError."""
        self._new = new
        self._max_bytes = max_bytes
        self._now = time.time_ns()
        self._buffer = bytearray()
        self._written = 0
        self._file = _open_at(file, size)
        for parent in parents:
            head = archive.FOLDER.pack(_FOLDER_MODE, self._now)
            self._file.write(archive.frame(b"D", head + parent.encode()))
        self._header = self._file.tell()
        self._file.write(self._file_frame(0))

    def write(self, data: bytes) -> None:
        """Raises PayloadTooLarge as soon as there is no room, and OSError."""
        if self._written + len(self._buffer) + len(data) > self._max_bytes:
            raise PayloadTooLarge.at(
                "content", f"does not fit: the session has room for {self._max_bytes} bytes more"
            )
        self._buffer += data
        while len(self._buffer) >= archive.CHUNK_BYTES:
            self._flush(archive.CHUNK_BYTES)

    def finish(self) -> int:
        """Write everything to the disk; the archive's new size."""
        if self._buffer:
            self._flush(len(self._buffer))
        end = self._file.tell()
        self._file.seek(self._header)
        self._file.write(self._file_frame(self._written))
        self._file.flush()
        os.fsync(self._file.fileno())
        return end

    def close(self) -> None:
        self._file.close()

    def _file_frame(self, size: int) -> bytes:
        mode = _EXECUTABLE_MODE if self._new.executable else _FILE_MODE
        head = archive.FILE.pack(mode, self._now, size)
        return archive.frame(b"F", head + self._new.path.encode())

    def _flush(self, count: int) -> None:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._file.write(archive.frame(b"C", archive.CONTENT.pack(self._written) + data))
        self._written += count


def missing_parents(index: ArchiveIndex, path: str) -> list[str]:
    """The folders that a new file needs and that are not there, the topmost first.

    Raises InvalidInput if the path, or a part of it, is taken by something else.
    """
    parts = path.split("/")
    parents = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
    for parent in parents:
        entry = index.entries.get(parent)
        if entry is not None and entry.kind is not EntryKind.FOLDER:
            raise InvalidInput.at("path", f"{parent!r} is a {entry.kind}, not a folder")
    existing = index.entries.get(path)
    if existing is not None and existing.kind is EntryKind.FOLDER:
        raise InvalidInput.at("path", f"{path!r} is a folder")
    return [parent for parent in parents if parent not in index.entries]


def compact(file: Path, size: int, index: ArchiveIndex, target: Path) -> int:
    """Copy an archive without what later frames replaced; the size of the new one.

    Raises OSError.
    """
    contents = {entry.content for entry in index.entries.values()}
    positions = {entry.position for entry in index.entries.values()}
    keep = False
    with file.open("rb") as source, target.open("xb") as sink:
        position = 0
        for kind, payload in archive.read_frames(source.read):
            frame = archive.frame(kind, payload)
            if position + len(frame) > size:
                break
            if kind != b"C":
                keep = kind == b"X" or position in positions or position + len(frame) in contents
            position += len(frame)
            if keep:
                sink.write(frame)
        sink.flush()
        os.fsync(sink.fileno())
        return sink.tell()


def _open_at(file: Path, size: int) -> IO[bytes]:
    """Opened to write behind the first `size` bytes; a crash may have left more."""
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.ftruncate(fd, size)
    opened = os.fdopen(fd, "r+b")
    opened.seek(size)
    return opened


def room_for(index: ArchiveIndex, path: str, max_bytes: int) -> int:
    """Bytes that a file of this path may have, in whole pages."""
    entry = index.entries.get(path)
    freed = 0
    if entry is not None and not any(
        other.content == entry.content for name, other in index.entries.items() if name != path
    ):
        freed = index.sizes.get(entry.content, 0)
    room = max(0, max_bytes - index.content_bytes + freed)
    return room // archive.PAGE_BYTES * archive.PAGE_BYTES
