"""The kernel's modules: which ones a driver takes, in the order to load them.

Each module file says itself what it needs (its .modinfo section: "depends=", and
"softdep=pre:" for what it asks for by another name), so no index made by `depmod` is
needed, which an unpacked kernel does not have.
"""

import gzip
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from plugins._shared.stage.unavailable import unavailable

_MODULE = re.compile(r"(.+)\.ko(\.gz|\.xz|\.zst)?")
_UNPACK_S = 30.0
_PLACES = "/usr/bin:/bin:/usr/local/bin"
_INFO = re.compile(rb"\0(depends|softdep)=([^\0]*)(?=\0)")


class Modules:
    """The modules in one folder /lib/modules/<version>; empty where there is no such folder."""

    def __init__(self, folder: Path | None) -> None:
        self._files = dict(_files(folder)) if folder is not None else {}

    def load_order(self, wanted: Iterable[str]) -> list[bytes]:
        """The unpacked modules behind these names and all that they need, needed ones first.

        A name without a file is a part of the kernel itself, or missing; that shows when
        the guest is started. Raises SandboxUnavailable if one can't be unpacked.
        """
        found: dict[str, bytes] = {}
        for name in wanted:
            self._add(_plain(name), found, set())
        return list(found.values())

    def _add(self, name: str, found: dict[str, bytes], above: set[str]) -> None:
        path = self._files.get(name)
        if path is None or name in found or name in above:
            return
        content = _unpacked(path)
        for needed in needs(content):
            self._add(needed, found, above | {name})
        found[name] = content


def needs(module: bytes) -> list[str]:
    """The names of the modules that must be there before this one."""
    names: list[str] = []
    for match in _INFO.finditer(b"\0" + module):
        words = match[2].decode(errors="replace")
        if match[1] == b"depends":
            names += words.split(",")
        else:
            before = words.partition("pre:")[2].partition("post:")[0]
            names += before.split()
    return [_plain(name) for name in names if name]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.ko*")):
        if match := _MODULE.fullmatch(path.name):
            yield _plain(match[1]), path


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _unpacked(path: Path) -> bytes:
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": _unzstd}
    content = path.read_bytes()
    return unpack[path.suffix](content) if path.suffix in unpack else content


def _unzstd(content: bytes) -> bytes:
    program = shutil.which("zstd", path=_PLACES)
    if program is None:
        raise unavailable(
            "the kernel's modules are packed with zstd and that program is missing",
            "install the package zstd",
        )
    done = subprocess.run(
        [program, "-dcq"], input=content, capture_output=True, timeout=_UNPACK_S, check=False
    )
    if done.returncode:
        raise unavailable(
            "a module of the kernel could not be unpacked: "
            + done.stderr.decode(errors="replace").strip()[:200],
            "install the kernel's package anew",
        )
    return done.stdout
