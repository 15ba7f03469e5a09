"""Reads a folder as archive entries."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import (
    CHUNK_BYTES,
    ArchiveEntry,
    Entries,
    EntryKind,
    quote_path,
    split_path,
)

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: EntryKind.FOLDER,
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFLNK: EntryKind.SYMLINK,
}


def read_folder(folder: Path, excluded: Path) -> Entries:
    """Everything below `folder` on the same file system, except the folder `excluded`.

    No link is followed, even if files are replaced meanwhile. Raises InvalidInput if a file
    can't be read.
    """
    excluded_id, names = _device_and_inode(excluded), dict[tuple[int, int], str]()
    device = folder.stat().st_dev
    for where, folders, files, at in os.fwalk(folder, onerror=_raise_invalid_input):
        base = Path(where).relative_to(folder)
        for name in sorted((*folders, *files)):
            path = str(base / name)
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            split_path(path)  # limits the depth before a folder is entered
            if stat.S_ISDIR(status.st_mode) and status.st_dev != device:
                folders.remove(name)
            if (status.st_dev, status.st_ino) == excluded_id:
                folders.remove(name)
                continue
            yield _entry(path, at, name, status, names)
        folders.sort()


def _entry(
    path: str, folder: int, name: str, status: os.stat_result, names: dict[tuple[int, int], str]
) -> ArchiveEntry:
    if stat.S_ISDIR(status.st_mode):
        os.close(_open(folder, name, path))
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), EntryKind.OTHER)
    if kind is EntryKind.SYMLINK:
        return ArchiveEntry(path, kind, target=os.readlink(name, dir_fd=folder))
    if kind is not EntryKind.FILE:
        return ArchiveEntry(path, kind)
    if status.st_nlink > 1:
        first = names.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            return ArchiveEntry(path, EntryKind.LINK, target=first)
    return ArchiveEntry(
        path,
        kind,
        executable=bool(status.st_mode & 0o111),
        size=status.st_size,
        content=partial(_content, folder, name, path),
    )


def _content(folder: int, name: str, path: str) -> Iterator[bytes]:
    descriptor = _open(folder, name, path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput(f"{quote_path(path)} changed while it was read; nothing was added")
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _open(folder: int, name: str, path: str) -> int:
    try:
        return os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        raise InvalidInput(f"{quote_path(path)}: {error.strerror}; nothing was added") from None


def _raise_invalid_input(error: OSError) -> None:
    raise InvalidInput(f"{quote_path(str(error.filename))}: {error.strerror}; nothing was added")


def _device_and_inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
