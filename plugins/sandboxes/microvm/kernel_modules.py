"""The kernel's modules: those that a driver requires, in loading order.

Each module names its dependencies in its .modinfo section ("depends=", and "softdep=pre:" for
those requested by an alias). So no index of `depmod` is required, which an unpacked kernel package
does not have.
"""

import gzip
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.errors import SandboxUnavailable

_MODULE = re.compile(r"(.+)\.ko(\.gz|\.xz|\.zst)?")
_UNCOMPRESS_S = 30.0
_PATH = "/usr/bin:/bin:/usr/local/bin"
_INFO = re.compile(rb"\0(depends|softdep)=([^\0]*)(?=\0)")


class KernelModules:
    """The modules in a folder /lib/modules/<version>; none without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._files = dict(_files(folder)) if folder is not None else {}

    def load_order(self, names: Iterable[str]) -> list[bytes]:
        """The uncompressed modules of these names and their dependencies, dependencies first.

        A name without a file is built in, or missing: that shows when the guest is started. Raises
        SandboxUnavailable if one can't be uncompressed.
        """
        ordered: dict[str, bytes] = {}
        for name in names:
            self._add(_normalize(name), ordered, set())
        return list(ordered.values())

    def _add(self, name: str, ordered: dict[str, bytes], ancestors: set[str]) -> None:
        path = self._files.get(name)
        if path is None or name in ordered or name in ancestors:
            return
        content = _uncompress(path)
        for dependency in required_modules(content):
            self._add(dependency, ordered, ancestors | {name})
        ordered[name] = content


def required_modules(module: bytes) -> list[str]:
    """Names of the modules that must be loaded before this one."""
    names: list[str] = []
    for match in _INFO.finditer(b"\0" + module):
        words = match[2].decode(errors="replace")
        if match[1] == b"depends":
            names += words.split(",")
        else:
            earlier = words.partition("pre:")[2].partition("post:")[0]
            names += earlier.split()
    return [_normalize(name) for name in names if name]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.ko*")):
        if match := _MODULE.fullmatch(path.name):
            yield _normalize(match[1]), path


def _normalize(name: str) -> str:
    return name.replace("-", "_")


def _uncompress(path: Path) -> bytes:
    functions = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": _unzstd}
    content = path.read_bytes()
    return functions[path.suffix](content) if path.suffix in functions else content


def _unzstd(content: bytes) -> bytes:
    program = shutil.which("zstd", path=_PATH)
    if program is None:
        raise SandboxUnavailable.with_remedy(
            "the kernel's modules are compressed with zstd, and that program is missing",
            "install the package zstd",
        )
    done = subprocess.run(
        [program, "-dcq"], input=content, capture_output=True, timeout=_UNCOMPRESS_S, check=False
    )
    if done.returncode:
        raise SandboxUnavailable.with_remedy(
            "a kernel module could not be uncompressed: "
            + done.stderr.decode(errors="replace").strip()[:200],
            "reinstall the kernel's package",
        )
    return done.stdout
