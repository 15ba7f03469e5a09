"""Collects a run's artifacts from its workspace.

The init process loads this module once every other process of the run is dead, so that nothing
changes meanwhile. The files are a hostile program's all the same: each is opened with
openat2(2) below the workspace, through no symbolic link and into no other file system, and only
regular files with one link are taken. Linux before 5.6 has no openat2; there each folder of the
path is opened on its own without following links.
"""

# As in the init process: pathlib is slow to load, and so is `ctypes`.
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

    SendFrame = Callable[[bytes, bytes], None]

ARTIFACT_HEADER = struct.Struct(">BH")

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


def collect_artifacts(job: "dict[str, Any]", send: "SendFrame") -> None:
    """Send an A frame for each file that matches the job's patterns, an R frame if refused."""
    matchers = [re.compile(pattern, re.DOTALL).fullmatch for pattern in job["patterns"]]
    files_left, bytes_left = job["artifact_files"], job["artifact_bytes"]
    opener = WorkspaceOpener(os.open(".", os.O_RDONLY | os.O_DIRECTORY))
    for path, reachable in _walk(opener):
        if not reachable:
            send(b"R", f"{path}: not looked at".encode(errors="replace"))
            continue
        if not any(matches(path) for matches in matchers):
            continue
        content, mode, reason = _read(opener, path, bytes_left)
        if files_left == 0:
            reason = "more files than the limit"
        if reason:
            send(b"R", f"{path}: {reason}".encode(errors="replace"))
            continue
        files_left, bytes_left = files_left - 1, bytes_left - len(content)
        name = os.fsencode(path)
        send(b"A", ARTIFACT_HEADER.pack(bool(mode & 0o100), len(name)) + name + content)


class WorkspaceOpener:
    """Opens paths below the folder `root` (a descriptor), and nothing outside of it."""

    def __init__(self, root: int) -> None:
        self.has_openat2 = True
        self._root = root
        self._ctypes = __import__("_ctypes")
        self._syscall = _libc_syscall(self._ctypes)

    def open(self, path: str, flags: int = 0) -> int:
        """A descriptor for reading. Raises OSError."""
        if self.has_openat2:
            try:
                return self._openat2(path, _FLAGS | flags)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
            self.has_openat2 = False
        return self._open_by_component(path, _FLAGS | flags)

    def _openat2(self, path: str, flags: int) -> int:
        how = _OPEN_HOW.pack(flags, 0, _RESOLVE)
        fd = self._syscall(_OPENAT2, self._root, os.fsencode(path), how, _OPEN_HOW.size)
        if fd < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return fd

    def _open_by_component(self, path: str, flags: int) -> int:
        *folders, name = path.split("/")
        parent = os.dup(self._root)
        try:
            for folder in folders:
                above, parent = parent, os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=parent)
                os.close(above)
            return os.open(name, flags, dir_fd=parent)
        finally:
            os.close(parent)


def _libc_syscall(parts: "Any") -> "Callable[..., int]":
    """syscall(2) that keeps its errno, as `ctypes` would build it from `_ctypes`."""
    number: Any = type("Number", (parts._SimpleCData,), {"_type_": "i"})
    flags = parts.FUNCFLAG_CDECL | parts.FUNCFLAG_USE_ERRNO
    kind: Any = type("Function", (parts.CFuncPtr,), {"_flags_": flags, "_restype_": number})
    return kind(parts.dlsym(parts.dlopen(None, os.RTLD_NOW), "syscall"))


def _walk(opener: WorkspaceOpener) -> "Iterator[tuple[str, bool]]":
    """All entries below the workspace but folders; False for what is beyond the bounds."""
    entry_count = 0
    todo = ["."]
    while todo:
        folder = todo.pop()
        try:
            fd = opener.open(folder, os.O_DIRECTORY)
        except OSError:
            yield folder, False
            continue
        prefix = "" if folder == "." else f"{folder}/"
        with os.scandir(fd) as iterator:
            # One entry beyond the bound, so that exceeding it shows.
            bounded = zip(iterator, range(_MAX_ENTRIES + 1 - entry_count), strict=False)
            entries = [(entry.name, _is_folder(entry)) for entry, _ in bounded]
        os.close(fd)
        entry_count += len(entries)
        for name, is_folder in sorted(entries):
            path = prefix + name
            if not is_folder:
                yield path, True
            elif path.count("/") >= _MAX_DEPTH or entry_count > _MAX_ENTRIES:
                yield path, False
            else:
                todo.append(path)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False)


def _read(opener: WorkspaceOpener, path: str, max_bytes: int) -> tuple[bytes, int, str]:
    """(content, mode, "") of a file, or the reason why it is refused."""
    try:
        fd = opener.open(path)
    except OSError as error:
        return b"", 0, _REASONS.get(error.errno or 0) or error.strerror or "not readable"
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            return b"", 0, "not a plain file"
        if info.st_size > max_bytes:
            return b"", 0, "larger than the limit"
        return file.read(max_bytes), info.st_mode, ""
