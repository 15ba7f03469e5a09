"""Root file systems for sandboxes: what is known of each, and how one lies on disk.

    sandbox-rootfs/NAME/record.json      a RootRecord
    sandbox-rootfs/NAME/tree/            the unpacked root, read-only
    sandbox-rootfs/NAME/image.squashfs   the image that it came from, if it was one

A NAME appears whole or not at all. Names that begin with a dot are not yet, or no longer, there.
"""

import re
from typing import Literal

from msgspec import Struct

FOLDER = "sandbox-rootfs"
RECORD = "record.json"
TREE = "tree"
IMAGE = "image.squashfs"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class RootRecord(Struct, frozen=True):
    """A root file system that was added, as it was found to be.

    `sha256` is the digest of the tree, `source_sha256` that of the file that was given ("" for
    a folder). `size` counts the bytes of the `files`. `machine` is what its shell is made for,
    as the kernel names it. `python` is the path inside of its own Python, as "/usr/bin/python3.11",
    and `glibc` the version of its C library, as "2.36"; each "" where it has none.
    `left_out` counts the device nodes, pipes and sockets that were not taken over.
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
