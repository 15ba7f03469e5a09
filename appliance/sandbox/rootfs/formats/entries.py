"""Archive entries: the files of a root file system, independent of the source format."""

from collections.abc import Callable, Generator, Iterator
from enum import Enum, auto

from msgspec import Struct

from appliance.errors import InvalidInput

CHUNK_BYTES = 1024 * 1024
MIB = 1024 * 1024
_HEADERS_PER_NAME = 4096
_MAX_DEPTH = 128
_MAX_PATH = 4000
_MAX_NAME = 255
_MAX_QUOTED = 200


class EntryKind(Enum):
    """LINK is a hard link; OTHER are device nodes, pipes and sockets, which are not imported."""

    FOLDER = auto()
    FILE = auto()
    SYMLINK = auto()
    LINK = auto()
    OTHER = auto()


class ArchiveEntry(Struct, frozen=True):
    """One entry. `target` is the text of a SYMLINK or the path that a LINK refers to.

    `content` yields the `size` bytes of a FILE in chunks; it must be consumed before the next
    entry is read.
    """

    path: str
    kind: EntryKind
    executable: bool = False
    size: int = 0
    target: str = ""
    content: Callable[[], Iterator[bytes]] = lambda: iter(())


Entries = Generator[ArchiveEntry, None, None]


class ArchiveLimits(Struct, frozen=True):
    """Limits of one root file system: `size` in bytes when unpacked, number of `files`."""

    size: int
    files: int

    @property
    def archive_size(self) -> int:
        """Limit of an uncompressed archive with that content, in bytes."""
        return self.size + self.files * _HEADERS_PER_NAME + MIB

    def too_large_error(self) -> InvalidInput:
        return InvalidInput(
            f"the root file system is larger than {self.size // MIB} MiB; "
            "raise the setting sandbox.rootfs_mib to allow more"
        )

    def too_many_error(self) -> InvalidInput:
        return InvalidInput(
            f"the root file system has more than {self.files} files and folders; "
            "raise the setting sandbox.rootfs_files to allow more"
        )


def split_path(path: str) -> tuple[str, ...]:
    """The parts of `path`, relative to the root; none for the root itself.

    Raises InvalidInput for a path that is absolute, contains `..` or is too long.
    """
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if path.startswith("/") or ".." in names:
        raise InvalidInput(
            f"{quote_path(path)} lies outside the root file system; nothing was added"
        )
    if len(names) > _MAX_DEPTH or len(path) > _MAX_PATH or "\0" in path:
        raise InvalidInput(f"{quote_path(path)} is no valid path; nothing was added")
    if any(len(name.encode(errors="surrogateescape")) > _MAX_NAME for name in names):
        raise InvalidInput(
            f"{quote_path(path)}: a part is longer than {_MAX_NAME} bytes; nothing was added"
        )
    return names


def check_symlink(path: str, target: str) -> None:
    """Raise InvalidInput unless the link's target lies inside the root file system.

    An absolute target is relative to the root file system's root, as in a sandbox.
    """
    if not target or "\0" in target or len(target) > _MAX_PATH:
        raise InvalidInput(f"the link {quote_path(path)} has no valid target; nothing was added")
    depth = 0 if target.startswith("/") else len(split_path(path)) - 1
    for name in target.split("/"):
        if name not in ("", "."):
            depth += -1 if name == ".." else 1
        if depth < 0:
            raise InvalidInput(
                f"the link {quote_path(path)} points outside the root file system "
                f"({quote_path(target)}); nothing was added"
            )


def quote_path(path: str) -> str:
    """The path for a message: shortened, on one line, without control characters."""
    return ascii(path if len(path) <= _MAX_QUOTED else f"{path[:_MAX_QUOTED]}…")
