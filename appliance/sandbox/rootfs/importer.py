"""Takes over what a root file system is given as: a squashfs image, a tar archive or a folder."""

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
from appliance.sandbox.rootfs.formats.entries import PIECE, Bounds, Entries
from appliance.sandbox.rootfs.tree_writer import Progress, TreeWriter

_SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["squashfs", "tar", "directory"]


class Given(Struct, frozen=True):
    """`source` and the SHA-256 that it must have ("" for any).

    An image is copied to `image`; `left_out` is no part of a folder, even where it lies in it.
    """

    source: Path
    sha256: str
    image: Path
    left_out: Path


def fill(writer: TreeWriter, given: Given, bounds: Bounds, progress: Progress) -> tuple[Kind, str]:
    """Write everything in it; says what it was, and its SHA-256 ("" for a folder).

    Raises InvalidInput for what can't be taken over, and OSError.
    """
    source = given.source
    if source.is_dir():
        if given.sha256:
            raise InvalidInput("a folder has no SHA-256; leave --sha256 out")
        _write(writer, folder.entries(source, given.left_out))
        return "directory", ""
    with _opened(source) as file:
        # Not to be read for hours first: what is packed is not larger than what it holds.
        if os.fstat(file.fileno()).st_size > bounds.archive_size:
            raise bounds.too_large()
        before = _state(file)
        digest = _digest(file, given.sha256, progress)
        if squashfs.looks_like_one(file):
            kind: Kind = "squashfs"
            _write_image(writer, file, given.image, digest, bounds)
        elif tar.looks_like_one(file):
            kind = "tar"
            _write(writer, tar.entries(file, bounds))
        else:
            raise InvalidInput(
                f"{source} is neither a squashfs image nor a tar archive nor a folder"
            )
        if _state(file) != before:
            raise InvalidInput(f"{source} changed while it was read; nothing was added")
    return kind, digest


def _write(writer: TreeWriter, entries: Entries) -> None:
    with contextlib.closing(entries):
        for entry in entries:
            writer.write(entry)


def _write_image(
    writer: TreeWriter, file: BinaryIO, image: Path, digest: str, bounds: Bounds
) -> None:
    """Keep a copy of the image, and unpack that copy."""
    file.seek(0)
    if os.fstat(file.fileno()).st_size > bounds.size:
        raise bounds.too_large()
    with image.open("w+b") as kept:
        while piece := file.read(PIECE):
            kept.write(piece)
        kept.flush()
        kept.seek(0)
        if hashlib.file_digest(kept, "sha256").hexdigest() != digest:
            raise InvalidInput("the image changed while it was read; nothing was added")
        _write(writer, squashfs.entries(kept, bounds))
    image.chmod(0o444)


@contextlib.contextmanager
def _opened(source: Path) -> Generator[BinaryIO]:
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidInput(f"{source} is neither a file nor a folder")
        yield file


def _digest(file: BinaryIO, wanted: str, progress: Progress) -> str:
    if wanted and not _SHA256.fullmatch(wanted.lower()):
        raise InvalidInput("--sha256 takes 64 hexadecimal digits")
    size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256()
    done = 0
    while piece := file.read(PIECE):
        digest.update(piece)
        done += len(piece)
        progress("reading", done, size)
    if wanted and digest.hexdigest() != wanted.lower():
        raise InvalidInput(
            f"the file's SHA-256 is {digest.hexdigest()} and not the one given; nothing was added"
        )
    return digest.hexdigest()


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
