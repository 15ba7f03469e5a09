"""Brings together the shared libraries that a copied interpreter needs.

They are put into `lib`, and the interpreter is told to look there. Those of the C
library stay out: they must be the machine's own, together with its loader.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from appliance.errors import SetupError
from appliance.processes import host_env

_TOOL_S = 60.0
_ELF = b"\x7fELF"
_OF_THE_C_LIBRARY = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libutil|libresolv|libanl"
    r"|libmvec|libthread_db|libBrokenLocale|libnss_\w+)\.so.*"
)
_FOUND = re.compile(r"^\s*(\S+) => (/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)


def gather(tree: Path) -> None:
    """Copy what `bin/python3` and the extension modules in `tree` need into `tree/lib`.

    Raises SetupError if a library or a tool that this takes is missing.
    """
    program = tree / "bin" / "python3"
    folder = tree / "lib"
    folder.mkdir(exist_ok=True)
    patchelf = _patchelf()
    loader = _output(patchelf, "--print-interpreter", str(program)).strip()
    for name, source in _needed(loader, [program, *_libraries(tree)]).items():
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o644)
    for path in [program, *_libraries(tree)]:
        _strip(path)
    for path in _libraries(tree):
        # What a library says of itself would go before what the interpreter says.
        _output(patchelf, "--remove-rpath", str(path))
    _output(patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(program))


def _needed(loader: str, binaries: list[Path]) -> dict[str, str]:
    """Name and place of every library beyond the C library's, as the loader finds them."""
    found: dict[str, str] = {}
    for path in binaries:
        listing = _output(
            loader, "--library-path", str(Path(sys.base_prefix, "lib")), "--list", str(path)
        )
        if missing := _MISSING.search(listing):
            raise SetupError(f"{path.name} needs {missing[1]}, which this machine lacks")
        found |= dict(_FOUND.findall(listing))
    return {name: at for name, at in found.items() if not _OF_THE_C_LIBRARY.fullmatch(name)}


def _libraries(tree: Path) -> list[Path]:
    return sorted(
        path
        for path in tree.rglob("*.so*")
        if path.is_file() and not path.is_symlink() and _is_elf(path)
    )


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def _strip(path: Path) -> None:
    """Without its debugging information, where the host has a tool for that."""
    if tool := shutil.which("strip"):
        _output(tool, "--strip-unneeded", str(path))


def _patchelf() -> str:
    here = Path(sysconfig.get_path("scripts"), "patchelf")
    found = str(here) if here.is_file() else shutil.which("patchelf")
    if found is None:
        raise SetupError("the program patchelf is missing: install the Python package patchelf")
    return found


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, env=host_env(), capture_output=True, text=True, timeout=_TOOL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{argv[0]} failed: {error}") from error
    if done.returncode:
        raise SetupError(f"{Path(argv[0]).name} failed on {argv[-1]}: {done.stderr.strip()}")
    return done.stdout
