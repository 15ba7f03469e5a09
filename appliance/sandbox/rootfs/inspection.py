"""Inspects a tree: whether it is the root of a system, and its shell, Python and C library.

Links are resolved as inside the sandbox; nothing in the tree is run.
"""

import os
import re
import stat
import struct
from pathlib import Path, PurePosixPath

from msgspec import Struct

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import quote_path

_SHELLS = ("/bin/sh", "/usr/bin/sh")
_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3")
_PYTHON = re.compile(r"python3\.\d+")
_LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
_GLIBC = re.compile(rb"GLIBC_(\d{1,4})\.(\d{1,4})\b")
_LIBRARIES = ("lib", "lib64", "usr/lib", "usr/lib64")

_MAX_LINKS = 40
_MAX_C_LIBRARY_BYTES = 64 * 1024 * 1024
_ELF = b"\x7fELF"
# 64 bits, little-endian; ELF machine numbers and the kernel's names for them.
_IDENT = b"\x02\x01"
_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 258: "loongarch64"}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_INTERPRETER = 3
_MAX_SEGMENTS = 256
_MAX_PATH = 4096


class ElfProgram(Struct, frozen=True):
    """An ELF program: its architecture, and the loader that it requests ("" for none)."""

    machine: str
    loader: str


class RootfsFacts(Struct, frozen=True):
    """See RootfsRecord for the fields."""

    machine: str
    shell: str
    python: str
    glibc: str


def inspect_tree(tree: Path, machine: str) -> RootfsFacts:
    """Inspect the tree. Raises InvalidInput if it is no root for that architecture."""
    if not (tree / "usr").is_dir() or (tree / "usr").is_symlink():
        raise _not_a_root("it has no folder /usr")
    shell = next((path for name in _SHELLS if (path := resolve_path(tree, name))), None)
    if shell is None:
        raise _not_a_root("it has neither /bin/sh nor /usr/bin/sh")
    program = _read_program(shell)
    if program is None:
        raise _not_a_root("its sh is no executable ELF program")
    if program.machine != machine:
        raise InvalidInput(
            f"the root file system is for {program.machine} machines; this one is {machine}"
        )
    if program.loader and resolve_path(tree, program.loader) is None:
        raise _not_a_root(f"its sh needs {quote_path(program.loader)}, which is missing")
    if not any(resolve_path(tree, f"/{name}", folder=True) for name in _LIBRARIES):
        raise _not_a_root("it has no library folder")
    return RootfsFacts(
        machine, _path_in_root(tree, shell), _find_python(tree, machine), _find_glibc(tree, machine)
    )


def resolve_path(tree: Path, path: str, *, folder: bool = False) -> Path | None:
    """`path` inside the tree with all links followed; None if it is no file (or `folder`)."""
    done, links = list[str](), 0
    todo = list(reversed(PurePosixPath(path).parts[1:]))
    while todo:
        name = todo.pop()
        if name == "..":
            del done[-1:]
            continue
        at = tree.joinpath(*done, name)
        if not at.is_symlink():
            done.append(name)
            continue
        links += 1
        target = PurePosixPath(at.readlink())
        if links > _MAX_LINKS:
            return None
        if target.is_absolute():
            done.clear()
        todo += reversed([part for part in target.parts if part != "/"])
    resolved = tree.joinpath(*done)
    return resolved if (resolved.is_dir() if folder else resolved.is_file()) else None


def _read_program(path: Path) -> ElfProgram | None:
    """The ELF program; None for any other file, such as a script."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_ELF) or not _is_executable(path):
            return None
        ident, _, machine, _, _, at, _, _, _, size, count, _, _, _ = _HEADER.unpack(head)
        architecture = _MACHINES.get(machine, f"ELF-{machine}")
        if ident[4:6] != _IDENT:
            return ElfProgram(f"{architecture} (not 64-bit little-endian)", "")
        for number in range(min(count, _MAX_SEGMENTS)):
            file.seek(min(at + number * size, 1 << 62))
            segment = file.read(_SEGMENT.size)
            if len(segment) < _SEGMENT.size:
                return None
            kind, _, start, _, _, length, _, _ = _SEGMENT.unpack(segment)
            if kind == _INTERPRETER:
                file.seek(min(start, 1 << 62))
                text = file.read(min(length, _MAX_PATH)).rstrip(b"\0")
                return (
                    ElfProgram(architecture, os.fsdecode(text)) if text.startswith(b"/") else None
                )
    return ElfProgram(architecture, "")


def _find_python(tree: Path, machine: str) -> str:
    """Path of the Python interpreter, with its version in the name; "" if there is none."""
    for name in _PYTHONS:
        path = resolve_path(tree, name)
        if path is None or not _PYTHON.fullmatch(path.name):
            continue
        program = _read_program(path)
        if program is not None and program.machine == machine:
            return _path_in_root(tree, path)
    return ""


def _find_glibc(tree: Path, machine: str) -> str:
    """Version of glibc: the newest symbol version in it; "" for another C library."""
    if resolve_path(tree, _LOADERS.get(machine, "/")) is None:
        return ""
    folders = [f"/{name}{below}" for name in _LIBRARIES for below in (f"/{machine}-linux-gnu", "")]
    candidates = (resolve_path(tree, f"{folder}/libc.so.6") for folder in folders)
    library = next((path for path in candidates if path is not None), None)
    if library is None or library.stat().st_size > _MAX_C_LIBRARY_BYTES:
        return ""
    # Not collected in a list: a hostile library may contain millions.
    versions = _GLIBC.finditer(library.read_bytes())
    newest = max(((int(each[1]), int(each[2])) for each in versions), default=None)
    return "{}.{}".format(*newest) if newest else ""


def _is_executable(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXUSR)


def _path_in_root(tree: Path, path: Path) -> str:
    """The absolute path inside the tree, for the record."""
    inside = f"/{path.relative_to(tree)}"
    if not inside.isprintable():
        raise InvalidInput(
            f"{quote_path(inside)} is not printable, so it can't name a program; nothing was added"
        )
    return inside


def _not_a_root(why: str) -> InvalidInput:
    return InvalidInput(
        f"this is not the root of a system: {why}. For a container image, use the output of "
        "`docker export` or `podman export`"
    )
