"""Which Python serves in a root file system: the box's own, or that of the root."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable, SetupError
from plugins._shared.rootfs.selection import Root

_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_VERSION = re.compile(r"python(\d+)\.(\d+)")

Version = tuple[int, int]


class Interpreter(Struct, frozen=True):
    """`own` is the folder of the box's Python, to be seen as /opt/python; None: the root's serves.

    `program` is where the interpreter is inside, in the second case.
    """

    own: Path | None
    program: str = "/opt/python/bin/python3"


def interpreter(root: Root | None, own: Callable[[], Path]) -> Interpreter:
    """The box's own Python (`own` makes it) where it runs in that root, else the root's.

    The box's has pytest and is known to work; the root's has what the root has. Raises
    SetupError for a box without Python where no root has one, and SandboxUnavailable where
    neither would run.
    """
    try:
        folder = own()
    except SetupError:
        if root is None or not root.python:
            raise
        return _of_root(root)
    if root is None or _runs_in(folder, root):
        return Interpreter(folder)
    return _of_root(root)


def _of_root(root: Root) -> Interpreter:
    found = _VERSION.search(root.python)
    # What runs inside is sent there as compiled code of the service's own version.
    if found is None or (int(found[1]), int(found[2])) != sys.version_info[:2]:
        has = root.python or "none"
        wanted = "{}.{}".format(*sys.version_info[:2])
        remedy = f"take a root with Python {wanted}, or with glibc in a newer version"
        raise SandboxUnavailable(
            f"no Python serves in the root file system {root.name}: its own is {has}, and its C "
            f"library ({f'glibc {root.glibc}' if root.glibc else 'not glibc'}) is not what the "
            f"box's Python needs: {remedy}",
            details={"remedy": remedy},
        )
    return Interpreter(None, root.python)


def _runs_in(folder: Path, root: Root) -> bool:
    """Whether the root's C library has every interface that the interpreter was linked to."""
    if not root.glibc:
        return False
    major, minor = (int(part) for part in root.glibc.split("."))
    return _needed(folder) <= (major, minor)


def _needed(folder: Path) -> Version:
    programs = [folder / "bin" / "python3", *folder.rglob("*.so*")]
    contents = (path.read_bytes() for path in programs if path.is_file())
    return max(
        ((int(a), int(b)) for content in contents for a, b in _GLIBC.findall(content)),
        default=(0, 0),
    )
