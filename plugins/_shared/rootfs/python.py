"""Chooses the Python of a sandbox: the bundled one, or that of the root file system."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable, SetupError
from plugins._shared.rootfs.selection import RootFilesystem

_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_VERSION = re.compile(r"python(\d+)\.(\d+)")

Version = tuple[int, int]


class Interpreter(Struct, frozen=True):
    """`bundled` is the folder of the bundled Python, which runs see as /opt/python.

    Without it, `program` is the path of the root's interpreter inside.
    """

    bundled: Path | None
    program: str = "/opt/python/bin/python3"


def choose_interpreter(root: RootFilesystem | None, bundled: Callable[[], Path]) -> Interpreter:
    """The bundled Python (`bundled` unpacks it) if it runs in that root, else the root's.

    The bundled one has pytest and is known to work. Raises SetupError if there is none and no root
    that has one, and SandboxUnavailable if neither would run.
    """
    try:
        folder = bundled()
    except SetupError:
        if root is None or not root.python:
            raise
        return _root_interpreter(root)
    if root is None or _runs_in(folder, root):
        return Interpreter(folder)
    return _root_interpreter(root)


def _root_interpreter(root: RootFilesystem) -> Interpreter:
    version = _VERSION.search(root.python)
    # The modules that run inside are bytecode of the server's own version.
    if version is None or (int(version[1]), int(version[2])) != sys.version_info[:2]:
        required = "{}.{}".format(*sys.version_info[:2])
        remedy = f"use a root with Python {required}, or with a newer glibc"
        libc = f"glibc {root.glibc}" if root.glibc else "not glibc"
        raise SandboxUnavailable.with_remedy(
            f"no Python runs in the root file system {root.name}: it has {root.python or 'none'}, "
            f"and its C library ({libc}) is too old or none for the bundled Python",
            remedy,
        )
    return Interpreter(None, root.python)


def _runs_in(folder: Path, root: RootFilesystem) -> bool:
    """Whether the root's glibc has every symbol version that the interpreter needs."""
    if not root.glibc:
        return False
    major, minor = (int(part) for part in root.glibc.split("."))
    return _required_glibc(folder) <= (major, minor)


def _required_glibc(folder: Path) -> Version:
    programs = [folder / "bin" / "python3", *folder.rglob("*.so*")]
    contents = (path.read_bytes() for path in programs if path.is_file())
    return max(
        ((int(a), int(b)) for content in contents for a, b in _GLIBC.findall(content)),
        default=(0, 0),
    )
