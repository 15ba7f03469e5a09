"""Root file systems for sandboxes: record and layout on disk.

    sandbox-rootfs/NAME/record.json      a RootfsRecord
    sandbox-rootfs/NAME/tree/            the unpacked files, read-only
    sandbox-rootfs/NAME/image.squashfs   the source image, if it was a squashfs image

A folder NAME is created and removed atomically. Names with a leading dot are temporary.
"""

import re
from typing import Literal

from msgspec import Struct

DIRECTORY = "sandbox-rootfs"
RECORD_FILE = "record.json"
TREE_DIRECTORY = "tree"
IMAGE_FILE = "image.squashfs"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class RootfsRecord(Struct, frozen=True):
    """A root file system at the time when it was added.

    `sha256` is the digest of the tree, `source_sha256` that of the source file ("" for a folder).
    `size` is the total size in bytes of the `files`. `machine` is the architecture of its shell,
    as the kernel names it. `python` is the path of its Python, e.g. "/usr/bin/python3.11", and
    `glibc` the version of its C library, e.g. "2.36"; "" where it has none. `left_out` counts
    device nodes, pipes and sockets, which are not imported.
    """

    name: str
    kind: Literal["squashfs", "tar", "directory"]
    source: str
    source_sha256: str
    sha256: str
    files: int
    size: int
    machine: str
    shell: str
    python: str
    glibc: str
    left_out: int
    added_at: float
