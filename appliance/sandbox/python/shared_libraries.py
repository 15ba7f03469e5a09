"""Copies the shared libraries that a copied interpreter needs.

They are put into `lib`, and the interpreter's RPATH is set to that folder. The C library is left
out: it must be the machine's own, together with its loader.
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
_C_LIBRARY = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libutil|libresolv|libanl"
    r"|libmvec|libthread_db|libBrokenLocale|libnss_\w+)\.so.*"
)
_RESOLVED = re.compile(r"^\s*(\S+) => (/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)


def copy_shared_libraries(tree: Path) -> None:
    """Copy what `bin/python3` and the extension modules in `tree` need into `tree/lib`.

    Raises SetupError if a library or a required tool is missing.
    """
    program = tree / "bin" / "python3"
    folder = tree / "lib"
    folder.mkdir(exist_ok=True)
    patchelf = _patchelf()
    loader = _run_tool(patchelf, "--print-interpreter", str(program)).strip()
    for name, source in _resolve_libraries(loader, [program, *_shared_objects(tree)]).items():
        shutil.copyfile(source, folder / name)
        (folder / name).chmod(0o644)
    for path in [program, *_shared_objects(tree)]:
        _strip(path)
    for path in _shared_objects(tree):
        # An RPATH of the library would take precedence over that of the interpreter.
        _run_tool(patchelf, "--remove-rpath", str(path))
    _run_tool(patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(program))


def _resolve_libraries(loader: str, binaries: list[Path]) -> dict[str, str]:
    """Name and path of each library as the loader finds it, without the C library's."""
    libraries: dict[str, str] = {}
    for path in binaries:
        listing = _run_tool(
            loader, "--library-path", str(Path(sys.base_prefix, "lib")), "--list", str(path)
        )
        if missing := _MISSING.search(listing):
            raise SetupError(f"{path.name} needs {missing[1]}, which this machine lacks")
        libraries |= dict(_RESOLVED.findall(listing))
    return {name: at for name, at in libraries.items() if not _C_LIBRARY.fullmatch(name)}


def _shared_objects(tree: Path) -> list[Path]:
    return sorted(
        path
        for path in tree.rglob("*.so*")
        if path.is_file() and not path.is_symlink() and _is_elf(path)
    )


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def _strip(path: Path) -> None:
    """Remove debugging information, if the host has the tool `strip`."""
    if tool := shutil.which("strip"):
        _run_tool(tool, "--strip-unneeded", str(path))


def _patchelf() -> str:
    bundled = Path(sysconfig.get_path("scripts"), "patchelf")
    path = str(bundled) if bundled.is_file() else shutil.which("patchelf")
    if path is None:
        raise SetupError("the program patchelf is missing; install the Python package patchelf")
    return path


def _run_tool(*argv: str) -> str:
    try:
        process = subprocess.run(
            argv, env=host_env(), capture_output=True, text=True, timeout=_TOOL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{argv[0]} failed: {error}") from error
    if process.returncode:
        raise SetupError(f"{Path(argv[0]).name} failed on {argv[-1]}: {process.stderr.strip()}")
    return process.stdout
