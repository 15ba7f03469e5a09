"""The archive of a workspace: how the files of a sandbox session are kept between its runs.

Neither tar nor zip: the sandbox writes it with what a bare interpreter loads in a millisecond, a
file with holes takes only what it holds, and it can express that a file of a read-only base was
removed. It travels into sandboxes as bytecode and imports nothing of the product.

An archive is a series of frames: a kind (1 byte), a length (4 bytes, big-endian), a payload. Paths
are relative, in UTF-8; a later frame for a path replaces what an earlier one made of it.

    D  a folder: mode (2 bytes), modification time in ns (8), path
    F  a file: mode, modification time, size (8), path
    C  content of the last file: offset (8), at most CHUNK_BYTES; what no frame gives is a hole
    L  a symbolic link: length of the path (2), path, target
    H  another name of a file: length of the path (2), path, path of the file
    X  nothing, where the base has something: path
    Z  the end (empty); only in a stream

Sandboxes are hostile: what is read from an archive is checked by its reader.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = struct.Struct(">cI")
FOLDER = struct.Struct(">Hq")
FILE = struct.Struct(">HqQ")
CONTENT = struct.Struct(">Q")
LINK = struct.Struct(">H")

PAGE_BYTES = 4096
CHUNK_BYTES = 15 * PAGE_BYTES
MAX_PATH_BYTES = 1024
MAX_TARGET_BYTES = 4096
ENTRY_OVERHEAD_BYTES = HEADER.size + FILE.size + MAX_PATH_BYTES + MAX_TARGET_BYTES
"""The most that an entry takes beside its content."""

MAX_PAYLOAD = 65536


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def link_frame(kind: bytes, path: bytes, target: bytes) -> bytes:
    return frame(kind, LINK.pack(len(path)) + path + target)


def split_link(payload: bytes) -> tuple[bytes, bytes]:
    """Path and target of an L or H frame. Raises struct.error."""
    (length,) = LINK.unpack_from(payload)
    end = LINK.size + length
    return payload[LINK.size : end], payload[end:]


def max_archive_bytes(content_bytes: int, entries: int) -> int:
    """The size of the largest archive with that much content and that many entries.

    Content comes in whole pages at least, each maybe in a frame of its own.
    """
    chunks = content_bytes // PAGE_BYTES + entries
    overhead = chunks * (HEADER.size + CONTENT.size)
    return content_bytes + overhead + entries * ENTRY_OVERHEAD_BYTES


def read_frames(read: "Callable[[int], bytes]") -> "Iterator[tuple[bytes, bytes]]":
    """Kind and payload of each frame up to the Z frame or the end. Raises ValueError."""
    while header := read(HEADER.size):
        if len(header) < HEADER.size:
            raise ValueError("the archive is cut off")
        kind, length = HEADER.unpack(header)
        if kind == b"Z":
            return
        if length > MAX_PAYLOAD:
            raise ValueError("a frame of the archive is too long")
        payload = read(length)
        if len(payload) < length:
            raise ValueError("the archive is cut off")
        yield kind, payload
