"""What a root file system holds, as it lies there: by its digest a change shows."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from appliance.sandbox.rootfs.tree_writer import Progress

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Measured(Struct, frozen=True):
    """A tree as it lies there: its digest, how many names it holds, and the bytes of its files."""

    sha256: str
    files: int
    size: int


def measure(tree: Path, progress: Progress) -> Measured:
    """Read the whole tree. Whether a file can be executed counts for the digest; time and owner
    do not."""
    digest, count, size = hashlib.sha256(), 0, 0
    seen = set[int]()
    for line, found in _lines(tree):
        digest.update(line)
        count += 1
        if stat.S_ISREG(found.st_mode) and found.st_ino not in seen:
            size += found.st_size
        if found.st_nlink > 1:
            seen.add(found.st_ino)
        progress("checking", size, None)
    return Measured(digest.hexdigest(), count, size)


def _lines(tree: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    for where, folders, files, at in os.fwalk(tree):
        folders.sort(key=os.fsencode)
        for name in sorted((*folders, *files), key=os.fsencode):
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            path = os.fsencode(Path(where, name).relative_to(tree))
            yield b"%s\0%s\n" % (path, _told(at, name, found)), found


def _told(folder: int, name: str, found: os.stat_result) -> bytes:
    if stat.S_ISDIR(found.st_mode):
        return b"folder"
    if stat.S_ISLNK(found.st_mode):
        return b"link " + os.fsencode(os.readlink(name, dir_fd=folder)).hex().encode()
    if not stat.S_ISREG(found.st_mode):
        return b"other"
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb", buffering=0) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return b"%s %s" % (b"program" if found.st_mode & 0o111 else b"file", content.encode())
