"""The files of a root file system that is given as a folder."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import PIECE, Entries, Entry, Kind, parts, shown

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFDIR: Kind.FOLDER, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMLINK}


def entries(folder: Path, left_out: Path) -> Entries:
    """Everything below `folder` on the same file system, but what is in `left_out`.

    No link is followed, also where somebody exchanges files meanwhile. Raises InvalidInput for
    what can't be read.
    """
    ours, names = _identity(left_out), dict[tuple[int, int], str]()
    device = folder.stat().st_dev
    for where, folders, files, at in os.fwalk(folder, onerror=_refuse):
        base = Path(where).relative_to(folder)
        for name in sorted((*folders, *files)):
            path = str(base / name)
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            parts(path)  # so that no folder is entered that is too deep
            if stat.S_ISDIR(found.st_mode) and found.st_dev != device:
                folders.remove(name)
            if (found.st_dev, found.st_ino) == ours:
                folders.remove(name)
                continue
            yield _entry(path, at, name, found, names)
        folders.sort()


def _entry(
    path: str, folder: int, name: str, found: os.stat_result, names: dict[tuple[int, int], str]
) -> Entry:
    if stat.S_ISDIR(found.st_mode):
        os.close(_open(folder, name, path))
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), Kind.OTHER)
    if kind is Kind.SYMLINK:
        return Entry(path, kind, target=os.readlink(name, dir_fd=folder))
    if kind is not Kind.FILE:
        return Entry(path, kind)
    if found.st_nlink > 1:
        first = names.setdefault((found.st_dev, found.st_ino), path)
        if first != path:
            return Entry(path, Kind.LINK, target=first)
    return Entry(
        path,
        kind,
        executable=bool(found.st_mode & 0o111),
        size=found.st_size,
        content=partial(_content, folder, name, path),
    )


def _content(folder: int, name: str, path: str) -> Iterator[bytes]:
    descriptor = _open(folder, name, path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput(f"{shown(path)} changed while it was read; nothing was added")
        while piece := file.read(PIECE):
            yield piece


def _open(folder: int, name: str, path: str) -> int:
    try:
        return os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        raise InvalidInput(f"{shown(path)}: {error.strerror}; nothing was added") from None


def _refuse(error: OSError) -> None:
    raise InvalidInput(f"{shown(str(error.filename))}: {error.strerror}; nothing was added")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
