"""The files of a root file system that is given as a tar archive, packed or not."""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Generator, Iterator
from functools import partial
from typing import IO, BinaryIO, cast

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.compression import is_packed, start, unpacked
from appliance.sandbox.rootfs.formats.entries import PIECE, Bounds, Entries, Entry, Kind
from appliance.sandbox.rootfs.formats.tar_guard import CarefulStream

_USTAR_AT = 257
# An archive can nest its headers more deeply than they can be followed.
_DAMAGE = (
    tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError,
    RecursionError,
)  # fmt: skip


def looks_like_one(file: BinaryIO) -> bool:
    """Whether it begins like an archive that is packed, or like a plain one."""
    first = start(file)
    return is_packed(first) or first[_USTAR_AT:].startswith(b"ustar")


def entries(file: BinaryIO, bounds: Bounds) -> Entries:
    """Everything in the archive, in its order. Raises InvalidInput for one that is damaged."""
    with _told(), unpacked(file) as stream:
        yield from _members(CarefulStream(stream, bounds))


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


def _members(stream: CarefulStream) -> Entries:
    with _opened(stream) as archive:
        while (member := _next(archive, stream)) is not None:
            yield _entry(archive, member)
        # Blocks of zeros end an archive; one that was cut off would just stop.
        if not stream.at_end:
            raise _damaged("it has no end")
        stream.finish()


def _opened(stream: CarefulStream) -> tarfile.TarFile:
    with stream.header():  # the first one is read at once
        return tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:")


def _next(archive: tarfile.TarFile, stream: CarefulStream) -> tarfile.TarInfo | None:
    with stream.header():
        member = archive.next()
    # It would remember every member, and whatever was said of all that follow.
    for kept in ("members", "pax_headers"):
        vars(archive)[kept].clear()
    return member


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
