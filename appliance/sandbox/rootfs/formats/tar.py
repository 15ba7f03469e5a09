"""Reads a tar archive, compressed or not, as archive entries."""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Generator, Iterator
from functools import partial
from typing import IO, BinaryIO, cast

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.compression import (
    is_compressed,
    open_decompressed,
    read_start,
)
from appliance.sandbox.rootfs.formats.entries import (
    CHUNK_BYTES,
    ArchiveEntry,
    ArchiveLimits,
    Entries,
    EntryKind,
)
from appliance.sandbox.rootfs.formats.tar_guard import GuardedStream

_USTAR_AT = 257
# RecursionError: an archive can nest headers deeply.
_CORRUPTION_ERRORS = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError,
    RecursionError,
)  # fmt: skip


def is_tar(file: BinaryIO) -> bool:
    """Whether the file begins like a compressed archive or like a tar archive."""
    first = read_start(file)
    return is_compressed(first) or first[_USTAR_AT:].startswith(b"ustar")


def read_tar(file: BinaryIO, limits: ArchiveLimits) -> Entries:
    """All entries in the order of the archive. Raises InvalidInput if it is damaged."""
    with _translate_errors(), open_decompressed(file) as stream:
        yield from _read_members(GuardedStream(stream, limits))


@contextlib.contextmanager
def _translate_errors() -> Generator[None]:
    """Raise InvalidInput in place of the standard library's errors for damaged archives."""
    try:
        yield
    except _CORRUPTION_ERRORS as error:
        raise _corrupt_archive_error(error) from None
    except OSError as error:
        # Without errno it is no system error, but content that can't be decompressed.
        if error.errno is not None:
            raise
        raise _corrupt_archive_error(error) from None


def _corrupt_archive_error(why: object) -> InvalidInput:
    return InvalidInput(f"the archive is damaged: {why}; nothing was added")


def _read_members(stream: GuardedStream) -> Entries:
    with _open_archive(stream) as archive:
        while (member := _next_member(archive, stream)) is not None:
            yield _entry(archive, member)
        # An archive ends with blocks of zeros; a truncated one lacks them.
        if not stream.at_end:
            raise _corrupt_archive_error("unexpected end of file")
        stream.finish()


def _open_archive(stream: GuardedStream) -> tarfile.TarFile:
    with stream.header():  # tarfile.open reads the first header
        return tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:")


def _next_member(archive: tarfile.TarFile, stream: GuardedStream) -> tarfile.TarInfo | None:
    with stream.header():
        member = archive.next()
    # tarfile keeps every member and every global header; clearing them bounds the memory.
    for attribute in ("members", "pax_headers"):
        vars(archive)[attribute].clear()
    return member


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> ArchiveEntry:
    if member.isdir():
        return ArchiveEntry(member.name, EntryKind.FOLDER)
    if member.issym():
        return ArchiveEntry(member.name, EntryKind.SYMLINK, target=member.linkname)
    if member.islnk():
        return ArchiveEntry(member.name, EntryKind.LINK, target=member.linkname)
    if not member.isreg():
        return ArchiveEntry(member.name, EntryKind.OTHER)
    return ArchiveEntry(
        member.name,
        EntryKind.FILE,
        executable=bool(member.mode & 0o111),
        size=member.size,
        content=partial(_content, archive, member),
    )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    with _translate_errors():
        file = archive.extractfile(member)
        while file is not None and (chunk := file.read(CHUNK_BYTES)):
            yield chunk
