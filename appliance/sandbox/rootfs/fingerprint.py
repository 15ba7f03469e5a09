"""Fingerprint of a tree: digest, number of entries and size, to detect changes."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from appliance.sandbox.rootfs.tree_writer import Progress

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeFingerprint(Struct, frozen=True):
    """Digest of a tree, number of its entries, and total size of its files in bytes."""

    sha256: str
    files: int
    size: int


def fingerprint_tree(tree: Path, progress: Progress) -> TreeFingerprint:
    """Read the whole tree. The digest covers names, types, content and the executable bit."""
    digest, count, size = hashlib.sha256(), 0, 0
    counted_inodes = set[int]()
    for line, status in _describe_tree(tree):
        digest.update(line)
        count += 1
        if stat.S_ISREG(status.st_mode) and status.st_ino not in counted_inodes:
            size += status.st_size
        if status.st_nlink > 1:
            counted_inodes.add(status.st_ino)
        progress("checking", size, None)
    return TreeFingerprint(digest.hexdigest(), count, size)


def _describe_tree(tree: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    for where, folders, files, at in os.fwalk(tree):
        folders.sort(key=os.fsencode)
        for name in sorted((*folders, *files), key=os.fsencode):
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            path = os.fsencode(Path(where, name).relative_to(tree))
            yield b"%s\0%s\n" % (path, _describe(at, name, status)), status


def _describe(folder: int, name: str, status: os.stat_result) -> bytes:
    if stat.S_ISDIR(status.st_mode):
        return b"folder"
    if stat.S_ISLNK(status.st_mode):
        return b"link " + os.fsencode(os.readlink(name, dir_fd=folder)).hex().encode()
    if not stat.S_ISREG(status.st_mode):
        return b"other"
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb", buffering=0) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return b"%s %s" % (b"program" if status.st_mode & 0o111 else b"file", content.encode())
