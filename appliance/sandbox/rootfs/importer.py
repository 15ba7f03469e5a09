"""Imports a root file system from a squashfs image, a tar archive or a folder."""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec import Struct

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats import folder, squashfs, tar
from appliance.sandbox.rootfs.formats.entries import CHUNK_BYTES, ArchiveLimits, Entries
from appliance.sandbox.rootfs.tree_writer import Progress, TreeWriter

_SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["squashfs", "tar", "directory"]


class ImportRequest(Struct, frozen=True):
    """`source` and its expected SHA-256 ("" for any).

    A squashfs image is copied to `image`. The folder `excluded` is skipped if `source` contains it.
    """

    source: Path
    sha256: str
    image: Path
    excluded: Path


def import_source(
    writer: TreeWriter, request: ImportRequest, limits: ArchiveLimits, progress: Progress
) -> tuple[Kind, str]:
    """Write the content of the source; returns its kind and its SHA-256 ("" for a folder).

    Raises InvalidInput if it can't be imported, and OSError.
    """
    source = request.source
    if source.is_dir():
        if request.sha256:
            raise InvalidInput("a folder has no SHA-256; leave --sha256 out")
        _write(writer, folder.read_folder(source, request.excluded))
        return "directory", ""
    with _open_source(source) as file:
        # Checked before the file is hashed. Compressed data is not larger than its content.
        if os.fstat(file.fileno()).st_size > limits.archive_size:
            raise limits.too_large_error()
        before = _file_state(file)
        digest = _hash_file(file, request.sha256, progress)
        if squashfs.is_squashfs(file):
            kind: Kind = "squashfs"
            _write_image(writer, file, request.image, digest, limits)
        elif tar.is_tar(file):
            kind = "tar"
            _write(writer, tar.read_tar(file, limits))
        else:
            raise InvalidInput(
                f"{source} is neither a squashfs image nor a tar archive nor a folder"
            )
        if _file_state(file) != before:
            raise InvalidInput(f"{source} changed while it was read; nothing was added")
    return kind, digest


def _write(writer: TreeWriter, entries: Entries) -> None:
    with contextlib.closing(entries):
        for entry in entries:
            writer.write(entry)


def _write_image(
    writer: TreeWriter, file: BinaryIO, image: Path, digest: str, limits: ArchiveLimits
) -> None:
    """Copy the image, and unpack the copy."""
    file.seek(0)
    if os.fstat(file.fileno()).st_size > limits.size:
        raise limits.too_large_error()
    with image.open("w+b") as copy:
        while chunk := file.read(CHUNK_BYTES):
            copy.write(chunk)
        copy.flush()
        copy.seek(0)
        if hashlib.file_digest(copy, "sha256").hexdigest() != digest:
            raise InvalidInput("the image changed while it was read; nothing was added")
        _write(writer, squashfs.read_squashfs(copy, limits))
    image.chmod(0o444)


@contextlib.contextmanager
def _open_source(source: Path) -> Generator[BinaryIO]:
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidInput(f"{source} is neither a file nor a folder")
        yield file


def _hash_file(file: BinaryIO, expected: str, progress: Progress) -> str:
    if expected and not _SHA256.fullmatch(expected.lower()):
        raise InvalidInput("--sha256 must be 64 hexadecimal digits")
    size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256()
    done = 0
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        done += len(chunk)
        progress("reading", done, size)
    if expected and digest.hexdigest() != expected.lower():
        raise InvalidInput(
            f"the file's SHA-256 is {digest.hexdigest()} not the expected one; nothing was added"
        )
    return digest.hexdigest()


def _file_state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
