"""Writes the files of a root file system below a folder, and nowhere else."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import (
    PIECE,
    Bounds,
    Entry,
    Kind,
    check_symlink,
    parts,
    shown,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)
_PROGRAM, _PLAIN = 0o555, 0o444
# Its owner may write to a folder: else nothing but this program could delete the tree.
_FOLDER_MODE = 0o755

Progress = Callable[[str, int, int | None], None]


class TreeWriter:
    """Fills an empty folder. Every path is walked from it without following a link.

    What it writes belongs to this user; no file is writable, has setuid bits or extended
    attributes.
    """

    def __init__(self, tree: Path, bounds: Bounds, progress: Progress) -> None:
        self._root = os.open(tree, _FOLDER)
        self._bounds = bounds
        self._progress = progress
        self._names = self._size = 0
        self.left_out = 0

    def write(self, entry: Entry) -> None:
        """Raises InvalidInput for what leads out, comes twice or is too much, and OSError."""
        self._names += 1
        if self._names > self._bounds.files:
            raise self._bounds.too_many()
        if entry.kind is Kind.OTHER:
            self.left_out += 1
            return
        names = parts(entry.path)
        if not names:
            return
        folder = self._folder(names[:-1], entry.path)
        try:
            self._write(folder, names[-1], entry)
        except FileExistsError:
            raise InvalidInput(f"{shown(entry.path)} comes twice; nothing was added") from None
        finally:
            os.close(folder)

    def close(self) -> None:
        os.close(self._root)

    def _write(self, folder: int, name: str, entry: Entry) -> None:
        if entry.kind is Kind.FOLDER:
            self._make_folder(folder, name, entry.path)
        elif entry.kind is Kind.SYMLINK:
            check_symlink(entry.path, entry.target)
            os.symlink(entry.target, name, dir_fd=folder)
        elif entry.kind is Kind.LINK:
            self._link(folder, name, entry)
        else:
            self._write_file(folder, name, entry)

    def _make_folder(self, folder: int, name: str, path: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise InvalidInput(f"{shown(path)} is a folder and something else") from None

    def _write_file(self, folder: int, name: str, entry: Entry) -> None:
        if entry.size > self._bounds.size - self._size:
            raise self._bounds.too_large()
        written = 0
        with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=folder), "wb", buffering=0) as file:
            for piece in entry.content():
                written += len(piece)
                if written > entry.size:
                    break
                _write_all(file.fileno(), piece)
                self._progress("unpacking", self._size + written, None)
            os.fchmod(file.fileno(), _PROGRAM if entry.executable else _PLAIN)
        if written != entry.size:
            raise InvalidInput(f"{shown(entry.path)} is not as long as it says; nothing was added")
        self._size += written

    def _link(self, folder: int, name: str, entry: Entry) -> None:
        there = parts(entry.target)
        try:
            source = self._open(there[:-1], make=False)
            try:
                kind = os.stat(there[-1], dir_fd=source, follow_symlinks=False).st_mode
                if not stat.S_ISREG(kind):
                    raise FileNotFoundError(errno.ENOENT, "no file")
                os.link(
                    there[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False
                )
            finally:
                os.close(source)
        except (OSError, IndexError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOENT, *_NO_FOLDER):
                raise
            raise InvalidInput(
                f"{shown(entry.path)} is a link to {shown(entry.target)}, which is no file "
                "before it; nothing was added"
            ) from None

    def _folder(self, names: tuple[str, ...], path: str) -> int:
        try:
            return self._open(names, make=True)
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            raise InvalidInput(
                f"{shown(path)} goes through a link or a file; nothing was added"
            ) from None

    def _open(self, names: tuple[str, ...], *, make: bool) -> int:
        """A descriptor of that folder; raises OSError if a link or a file is in the way."""
        at = os.dup(self._root)
        for name in names:
            below = at
            try:
                at = self._below(below, name, make)
            finally:
                os.close(below)
        return at

    def _below(self, folder: int, name: str, make: bool) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        self._names += 1
        os.mkdir(name, 0o700, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)


def open_to_all(tree: Path) -> None:
    """Let others, as whom the runs go on, enter every folder."""
    for _, _, _, folder in os.fwalk(tree, topdown=False):
        os.fchmod(folder, _FOLDER_MODE)


def _write_all(descriptor: int, piece: bytes) -> None:
    for start in range(0, len(piece), PIECE):
        rest = memoryview(piece)[start : start + PIECE]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
