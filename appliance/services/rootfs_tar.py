"""The files of a root file system that is given as a tar archive, packed or not."""

import bz2
import contextlib
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import IO, Any, BinaryIO, cast

from appliance.errors import InvalidInput
from appliance.services.rootfs_entries import PIECE, Bounds, Entries, Entry, Kind

# A header that says more of one file than this is no honest one.
_LARGEST_HEADER = 1024 * 1024
_PER_NAME = 4096
_BLOCK = 512
_USTAR_AT = 257
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKERS: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"BZh", bz2.BZ2File),
)
# An archive can nest its headers more deeply than they can be followed.
_DAMAGE = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError,
    RecursionError,
)  # fmt: skip


def looks_like_one(file: BinaryIO) -> bool:
    """Whether it begins like an archive that is packed, or like a plain one."""
    start = _start(file)
    known = start.startswith((_ZSTD, *(magic for magic, _ in _PACKERS)))
    return known or start[_USTAR_AT:].startswith(b"ustar")


def entries(file: BinaryIO, bounds: Bounds) -> Entries:
    """Everything in the archive, in its order. Raises InvalidInput for one that is damaged."""
    with _told(), _unpacked(file) as stream:
        yield from _members(_Careful(stream, bounds))


@contextlib.contextmanager
def _told() -> Generator[None]:
    """What the standard library says of an archive that it can't read, in our words."""
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(error) from None
    except OSError as error:
        # Without a number it is no failure of the system, but content that can't be unpacked.
        if error.errno is not None:
            raise
        raise _damaged(error) from None


def _damaged(why: object) -> InvalidInput:
    return InvalidInput(f"the archive is damaged: {why}; nothing was added")


def _unpacked(file: BinaryIO) -> "contextlib.AbstractContextManager[IO[bytes]]":
    start = _start(file)
    if start.startswith(_ZSTD):
        raise InvalidInput("archives packed with zstd can't be read; unpack it first: zstd -d FILE")
    for magic, open_ in _PACKERS:
        if start.startswith(magic):
            return open_(file)
    return contextlib.nullcontext(file)


def _members(stream: "_Careful") -> Entries:
    # Read piece by piece through `stream`, whose own bounds hold for headers and gaps too.
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
        while (member := archive.next()) is not None:
            yield _entry(archive, member)
            # The archive would remember every member; its list of them has no public name.
            vars(archive)["members"].clear()
        # Two blocks of zeros end an archive; one that was cut off would just stop.
        stream.seek(archive.offset)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            raise _damaged("it has no end")
        # To the last byte: only there is the checksum of what was packed.
        while stream.read(_LARGEST_HEADER):
            pass


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.isdir():
        return Entry(member.name, Kind.FOLDER)
    if member.issym():
        return Entry(member.name, Kind.SYMLINK, target=member.linkname)
    if member.islnk():
        return Entry(member.name, Kind.LINK, target=member.linkname)
    if not member.isreg():
        return Entry(member.name, Kind.OTHER)
    return Entry(
        member.name,
        Kind.FILE,
        executable=bool(member.mode & 0o111),
        size=member.size,
        content=partial(_content, archive, member),
    )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    with _told():
        file = archive.extractfile(member)
        while file is not None and (piece := file.read(PIECE)):
            yield piece


class _Careful:
    """The unpacked archive: no read is larger than a header may be, and none passes the bounds."""

    def __init__(self, stream: IO[bytes], bounds: Bounds) -> None:
        self._stream = stream
        self._bounds = bounds
        self._end = bounds.size + bounds.files * _PER_NAME + _LARGEST_HEADER

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise InvalidInput("the archive has a header of more than 1 MiB; nothing was added")
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0:
            raise ValueError("an archive is read from its beginning")
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._end:
            raise self._bounds.too_large()


def _start(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(_BLOCK)
    file.seek(0)
    return start
