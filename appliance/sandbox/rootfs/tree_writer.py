"""Writes archive entries below a folder, and nowhere else, whatever their paths say."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import (
    CHUNK_BYTES,
    ArchiveEntry,
    ArchiveLimits,
    EntryKind,
    check_symlink,
    quote_path,
    split_path,
)

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_A_FOLDER = (errno.ENOTDIR, errno.ELOOP)
_EXECUTABLE_MODE, _FILE_MODE = 0o555, 0o444
# Folders stay writable for their owner, so that the tree can be deleted with usual tools.
_FOLDER_MODE = 0o755

Progress = Callable[[str, int, int | None], None]


class TreeWriter:
    """Fills an empty folder. Every path is walked from that folder without following links.

    Files belong to the current user, are read-only, and have no setuid bits or extended attributes.
    """

    def __init__(self, tree: Path, limits: ArchiveLimits, progress: Progress) -> None:
        self._root = os.open(tree, _OPEN_FOLDER)
        self._limits = limits
        self._progress = progress
        self._entries = self._size = 0
        self.skipped = 0

    def write(self, entry: ArchiveEntry) -> None:
        """Raise InvalidInput for a path outside, a duplicate or too much data, and OSError."""
        self._entries += 1
        if self._entries > self._limits.files:
            raise self._limits.too_many_error()
        if entry.kind is EntryKind.OTHER:
            self.skipped += 1
            return
        names = split_path(entry.path)
        if not names:
            return
        folder = self._open_parent(names[:-1], entry.path)
        try:
            self._write(folder, names[-1], entry)
        except FileExistsError:
            raise InvalidInput(f"{quote_path(entry.path)} comes twice; nothing was added") from None
        finally:
            os.close(folder)

    def close(self) -> None:
        os.close(self._root)

    def _write(self, folder: int, name: str, entry: ArchiveEntry) -> None:
        if entry.kind is EntryKind.FOLDER:
            self._make_folder(folder, name, entry.path)
        elif entry.kind is EntryKind.SYMLINK:
            check_symlink(entry.path, entry.target)
            os.symlink(entry.target, name, dir_fd=folder)
        elif entry.kind is EntryKind.LINK:
            self._write_link(folder, name, entry)
        else:
            self._write_file(folder, name, entry)

    def _make_folder(self, folder: int, name: str, path: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise InvalidInput(
                    f"{quote_path(path)} is both a folder and something else"
                ) from None

    def _write_file(self, folder: int, name: str, entry: ArchiveEntry) -> None:
        if entry.size > self._limits.size - self._size:
            raise self._limits.too_large_error()
        written = 0
        with os.fdopen(
            os.open(name, _CREATE_FILE, 0o600, dir_fd=folder), "wb", buffering=0
        ) as file:
            for chunk in entry.content():
                written += len(chunk)
                if written > entry.size:
                    break
                _write_all(file.fileno(), chunk)
                self._progress("unpacking", self._size + written, None)
            os.fchmod(file.fileno(), _EXECUTABLE_MODE if entry.executable else _FILE_MODE)
        if written != entry.size:
            raise InvalidInput(
                f"{quote_path(entry.path)} differs in length from its header; nothing was added"
            )
        self._size += written

    def _write_link(self, folder: int, name: str, entry: ArchiveEntry) -> None:
        target = split_path(entry.target)
        try:
            source = self._walk_to(target[:-1], make=False)
            try:
                kind = os.stat(target[-1], dir_fd=source, follow_symlinks=False).st_mode
                if not stat.S_ISREG(kind):
                    raise FileNotFoundError(errno.ENOENT, "no file")
                os.link(
                    target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False
                )
            finally:
                os.close(source)
        except (OSError, IndexError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOENT, *_NOT_A_FOLDER):
                raise
            raise InvalidInput(
                f"{quote_path(entry.path)} is a hard link to {quote_path(entry.target)}, "
                "which is no file before it; nothing was added"
            ) from None

    def _open_parent(self, names: tuple[str, ...], path: str) -> int:
        try:
            return self._walk_to(names, make=True)
        except OSError as error:
            if error.errno not in _NOT_A_FOLDER:
                raise
            raise InvalidInput(
                f"{quote_path(path)} goes through a link or a file; nothing was added"
            ) from None

    def _walk_to(self, names: tuple[str, ...], *, make: bool) -> int:
        """A descriptor of that folder; raises OSError if a part of the path is a link or a file."""
        at = os.dup(self._root)
        for name in names:
            parent = at
            try:
                at = self._open_child(parent, name, make)
            finally:
                os.close(parent)
        return at

    def _open_child(self, folder: int, name: str, make: bool) -> int:
        try:
            return os.open(name, _OPEN_FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        self._entries += 1
        os.mkdir(name, 0o700, dir_fd=folder)
        return os.open(name, _OPEN_FOLDER, dir_fd=folder)


def make_readable(tree: Path) -> None:
    """Let all users enter every folder, since runs have other user ids."""
    for _, _, _, folder in os.fwalk(tree, topdown=False):
        os.fchmod(folder, _FOLDER_MODE)


def _write_all(descriptor: int, chunk: bytes) -> None:
    for start in range(0, len(chunk), CHUNK_BYTES):
        rest = memoryview(chunk)[start : start + CHUNK_BYTES]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
