"""What the files of a root file system are given as, whatever they come from."""

from collections.abc import Callable, Generator, Iterator
from enum import Enum, auto

from msgspec import Struct

from appliance.errors import InvalidInput

PIECE = 1024 * 1024
MIB = 1024 * 1024
_HEADERS_PER_NAME = 4096
_DEEPEST = 128
_LONGEST_PATH = 4000
_LONGEST_NAME = 255
_SHOWN = 200


class Kind(Enum):
    """`LINK` is a hard link; `OTHER` device nodes, pipes and sockets, which are not taken over."""

    FOLDER = auto()
    FILE = auto()
    SYMLINK = auto()
    LINK = auto()
    OTHER = auto()


class Entry(Struct, frozen=True):
    """One name in a root file system. `target` is what a SYMLINK says, or the path of a LINK.

    `content` gives the `size` bytes of a FILE in pieces; only to be called before the next
    entry is taken.
    """

    path: str
    kind: Kind
    executable: bool = False
    size: int = 0
    target: str = ""
    content: Callable[[], Iterator[bytes]] = lambda: iter(())


Entries = Generator[Entry, None, None]


class Bounds(Struct, frozen=True):
    """How much one root file system may hold: bytes unpacked, and names."""

    size: int
    files: int

    @property
    def archive_size(self) -> int:
        """Bytes of an archive, not packed, that holds as much."""
        return self.size + self.files * _HEADERS_PER_NAME + MIB

    def too_large(self) -> InvalidInput:
        return InvalidInput(
            f"the root file system holds more than {self.size // MIB} MiB; "
            "the setting sandbox.rootfs_mib allows more"
        )

    def too_many(self) -> InvalidInput:
        return InvalidInput(
            f"the root file system holds more than {self.files} files and folders; "
            "the setting sandbox.rootfs_files allows more"
        )


def parts(path: str) -> tuple[str, ...]:
    """The names that lead from the root to `path`; none for the root itself.

    Raises InvalidInput for what is not a plain path below it.
    """
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if path.startswith("/") or ".." in names:
        raise InvalidInput(f"{shown(path)} leads out of the root file system; nothing was added")
    if len(names) > _DEEPEST or len(path) > _LONGEST_PATH or "\0" in path:
        raise InvalidInput(f"{shown(path)} is no usable path; nothing was added")
    if any(len(name.encode(errors="surrogateescape")) > _LONGEST_NAME for name in names):
        raise InvalidInput(f"{shown(path)}: a name in it is longer than {_LONGEST_NAME} bytes")
    return names


def check_symlink(path: str, target: str) -> None:
    """Raise InvalidInput unless the link stays inside, whoever reads it.

    An absolute target counts from the root file system's own root, as the runs will see it.
    """
    if not target or "\0" in target or len(target) > _LONGEST_PATH:
        raise InvalidInput(f"the link {shown(path)} has no usable target; nothing was added")
    depth = 0 if target.startswith("/") else len(parts(path)) - 1
    for name in target.split("/"):
        if name not in ("", "."):
            depth += -1 if name == ".." else 1
        if depth < 0:
            raise InvalidInput(
                f"the link {shown(path)} leads out of the root file system "
                f"({shown(target)}); nothing was added"
            )


def shown(path: str) -> str:
    """A path for a message: short, on one line, without what a terminal would act on."""
    return ascii(path if len(path) <= _SHOWN else f"{path[:_SHOWN]}…")
