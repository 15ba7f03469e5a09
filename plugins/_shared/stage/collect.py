"""Brings a run's artifacts out of its workspace; the stage's second half.

Loaded by the stage (see stage.py) once every other process of the run is dead, so that
nothing changes under its hands. What it reads was written by a hostile program all the
same: each file is opened with openat2 from the workspace down, through no symbolic link
and into no other file system, and only regular files with one name are taken. A kernel
before 5.6 has no openat2; there each folder is opened on its own, without following links.
"""

# As in the stage: pathlib is slow to load, and so is `ctypes`.
# ruff: noqa: PTH123
import errno
import os
import re
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Frame = Callable[[bytes, bytes], None]
    Walk = Iterator[tuple[str, bool]]

ARTIFACT = struct.Struct(">BH")

_MAX_DEPTH = 32
_MAX_ENTRIES = 20_000

_OPENAT2 = 437  # on every architecture
_OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
_RESOLVE = 0x01 | 0x04 | 0x08  # NO_XDEV, NO_SYMLINKS, BENEATH
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW

_REASONS = {
    errno.ELOOP: "not a plain file",
    errno.EXDEV: "outside of the workspace",
}


def collect(job: "dict[str, Any]", report: "Frame") -> None:
    """Report what matches the job's patterns as A frames, what may not come out as R frames."""
    wanted = [re.compile(pattern, re.DOTALL).fullmatch for pattern in job["patterns"]]
    left_files, left_bytes = job["artifact_files"], job["artifact_bytes"]
    opener = Opener(os.open(".", os.O_RDONLY | os.O_DIRECTORY))
    for path, looked_at in _walk(opener):
        if not looked_at:
            report(b"R", f"{path}: not looked at".encode(errors="replace"))
            continue
        if not any(matches(path) for matches in wanted):
            continue
        content, mode, reason = _read(opener, path, left_bytes)
        if left_files == 0:
            reason = "more files than the limit"
        if reason:
            report(b"R", f"{path}: {reason}".encode(errors="replace"))
            continue
        left_files, left_bytes = left_files - 1, left_bytes - len(content)
        name = os.fsencode(path)
        report(b"A", ARTIFACT.pack(bool(mode & 0o100), len(name)) + name + content)


class Opener:
    """Opens paths below the folder `root` (a descriptor), and nothing outside of it."""

    def __init__(self, root: int) -> None:
        self.resolves = True
        self._root = root
        self._ctypes = __import__("_ctypes")
        self._syscall = _syscall(self._ctypes)

    def open(self, path: str, flags: int = 0) -> int:
        """A descriptor for reading. Raises OSError."""
        if self.resolves:
            try:
                return self._openat2(path, _FLAGS | flags)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
            self.resolves = False
        return self._step_by_step(path, _FLAGS | flags)

    def _openat2(self, path: str, flags: int) -> int:
        how = _OPEN_HOW.pack(flags, 0, _RESOLVE)
        fd = self._syscall(_OPENAT2, self._root, os.fsencode(path), how, _OPEN_HOW.size)
        if fd < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return fd

    def _step_by_step(self, path: str, flags: int) -> int:
        *folders, name = path.split("/")
        place = os.dup(self._root)
        try:
            for folder in folders:
                above, place = place, os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=place)
                os.close(above)
            return os.open(name, flags, dir_fd=place)
        finally:
            os.close(place)


def _syscall(parts: "Any") -> "Callable[..., int]":
    """The C library's syscall(), which keeps its errno: what `ctypes` makes of these parts."""
    number: Any = type("Number", (parts._SimpleCData,), {"_type_": "i"})
    flags = parts.FUNCFLAG_CDECL | parts.FUNCFLAG_USE_ERRNO
    kind: Any = type("Function", (parts.CFuncPtr,), {"_flags_": flags, "_restype_": number})
    return kind(parts.dlsym(parts.dlopen(None, os.RTLD_NOW), "syscall"))


def _walk(opener: Opener) -> "Walk":
    """All entries but folders below the workspace, by path; False for what is not looked at."""
    seen = 0
    todo = ["."]
    while todo:
        folder = todo.pop()
        try:
            fd = opener.open(folder, os.O_DIRECTORY)
        except OSError:
            yield folder, False
            continue
        prefix = "" if folder == "." else f"{folder}/"
        with os.scandir(fd) as entries:
            room = range(_MAX_ENTRIES + 1 - seen)
            some = [
                (entry.name, _is_folder(entry)) for entry, _ in zip(entries, room, strict=False)
            ]
        os.close(fd)
        seen += len(some)
        for name, is_folder in sorted(some):
            path = prefix + name
            if not is_folder:
                yield path, True
            elif path.count("/") >= _MAX_DEPTH or seen > _MAX_ENTRIES:
                yield path, False
            else:
                todo.append(path)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False)


def _read(opener: Opener, path: str, most: int) -> tuple[bytes, int, str]:
    """(content, mode, "") of a file, or what is against taking it."""
    try:
        fd = opener.open(path)
    except OSError as error:
        return b"", 0, _REASONS.get(error.errno or 0) or error.strerror or "not readable"
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            return b"", 0, "not a plain file"
        if found.st_size > most:
            return b"", 0, "larger than the limit"
        return file.read(most), found.st_mode, ""
