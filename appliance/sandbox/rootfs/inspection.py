"""Whether a folder is the root of a system, and what of it matters to a sandbox.

Links are resolved as they would be inside; nothing in the folder is run.
"""

import os
import re
import stat
import struct
from pathlib import Path, PurePosixPath

from msgspec import Struct

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.entries import shown

_SHELLS = ("/bin/sh", "/usr/bin/sh")
_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3")
_PYTHON = re.compile(r"python3\.\d+")
_LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}
_GLIBC = re.compile(rb"GLIBC_(\d{1,4})\.(\d{1,4})\b")
_LIBRARIES = ("lib", "lib64", "usr/lib", "usr/lib64")

_MOST_LINKS = 40
_LARGEST_C_LIBRARY = 64 * 1024 * 1024
_ELF = b"\x7fELF"
# 64 bits, little-endian; what the kernel calls the machines.
_IDENT = b"\x02\x01"
_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 258: "loongarch64"}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_INTERPRETER = 3
_MOST_SEGMENTS = 256
_LONGEST_PATH = 4096


class Program(Struct, frozen=True):
    """An ELF program: the machine it is for, and the loader that it asks for ("" for none)."""

    machine: str
    loader: str


class Found(Struct, frozen=True):
    """See RootRecord for the fields."""

    machine: str
    shell: str
    python: str
    glibc: str


def examine(tree: Path, machine: str) -> Found:
    """What is in the tree. Raises InvalidInput where it is no root for that machine."""
    if not (tree / "usr").is_dir() or (tree / "usr").is_symlink():
        raise _no_root("it has no folder /usr")
    shell = next((path for name in _SHELLS if (path := resolve(tree, name))), None)
    if shell is None:
        raise _no_root("it has neither /bin/sh nor /usr/bin/sh")
    program = _program(shell)
    if program is None:
        raise _no_root("its sh is no program that a kernel could start")
    if program.machine != machine:
        raise InvalidInput(
            f"the root file system is made for {program.machine} machines; this one is {machine}"
        )
    if program.loader and resolve(tree, program.loader) is None:
        raise _no_root(f"its sh needs {shown(program.loader)}, which is not there")
    if not any(resolve(tree, f"/{name}", folder=True) for name in _LIBRARIES):
        raise _no_root("it has no folder of libraries")
    return Found(machine, _inside(tree, shell), _python(tree, machine), _glibc(tree, machine))


def resolve(tree: Path, path: str, *, folder: bool = False) -> Path | None:
    """Where `path` leads inside the tree, every link followed; None if it is no such file."""
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
        if links > _MOST_LINKS:
            return None
        if target.is_absolute():
            done.clear()
        todo += reversed([part for part in target.parts if part != "/"])
    found = tree.joinpath(*done)
    return found if (found.is_dir() if folder else found.is_file()) else None


def _program(path: Path) -> Program | None:
    """None for anything else, such as a script."""
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_ELF) or not _executable(path):
            return None
        ident, _, machine, _, _, at, _, _, _, size, count, _, _, _ = _HEADER.unpack(head)
        named = _MACHINES.get(machine, f"ELF-{machine}")
        if ident[4:6] != _IDENT:
            return Program(f"{named}, not of 64 bits", "")
        for number in range(min(count, _MOST_SEGMENTS)):
            file.seek(min(at + number * size, 1 << 62))
            segment = file.read(_SEGMENT.size)
            if len(segment) < _SEGMENT.size:
                return None
            kind, _, start, _, _, length, _, _ = _SEGMENT.unpack(segment)
            if kind == _INTERPRETER:
                file.seek(min(start, 1 << 62))
                text = file.read(min(length, _LONGEST_PATH)).rstrip(b"\0")
                return Program(named, os.fsdecode(text)) if text.startswith(b"/") else None
    return Program(named, "")


def _python(tree: Path, machine: str) -> str:
    """The newest-named interpreter, by the path that tells its version; "" if there is none."""
    for name in _PYTHONS:
        path = resolve(tree, name)
        if path is None or not _PYTHON.fullmatch(path.name):
            continue
        program = _program(path)
        if program is not None and program.machine == machine:
            return _inside(tree, path)
    return ""


def _glibc(tree: Path, machine: str) -> str:
    """The newest version of its interface that the C library offers; "" where it is another."""
    if resolve(tree, _LOADERS.get(machine, "/")) is None:
        return ""
    folders = [f"/{name}{below}" for name in _LIBRARIES for below in (f"/{machine}-linux-gnu", "")]
    there = (resolve(tree, f"{folder}/libc.so.6") for folder in folders)
    library = next((path for path in there if path is not None), None)
    if library is None or library.stat().st_size > _LARGEST_C_LIBRARY:
        return ""
    # One by one: a hostile library may be full of them.
    found = _GLIBC.finditer(library.read_bytes())
    newest = max(((int(each[1]), int(each[2])) for each in found), default=None)
    return "{}.{}".format(*newest) if newest else ""


def _executable(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXUSR)


def _inside(tree: Path, path: Path) -> str:
    """The path as the record keeps it and commands show it."""
    inside = f"/{path.relative_to(tree)}"
    if not inside.isprintable():
        raise InvalidInput(f"{shown(inside)} is no usable name for a program; nothing was added")
    return inside


def _no_root(why: str) -> InvalidInput:
    return InvalidInput(
        f"this is not the root of a system: {why}. An image of a container is made one by "
        "`docker export` or `podman export`"
    )
