"""Loads a workspace from its archive before a run, and writes the archive after it.

The init process loads this module only for a run whose workspace outlives it. While it works no
other process of the run is alive, so nothing changes meanwhile; what it finds was made by a hostile
program all the same. No symbolic link is followed: every folder of a path was seen to be one.
"""

# As in the init process: pathlib and contextlib are slow to load.
# ruff: noqa: PTH101, PTH103, PTH106, PTH108, PTH115, PTH120
# ruff: noqa: PTH102, PTH208, PTH211
import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from appliance.spi import workspace_archive as archive
else:  # in a sandbox, where its siblings lie beside it
    sys.path.append(os.path.dirname(__file__))
    archive = __import__("workspace_archive")
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    SendFrame = Callable[[bytes, bytes], None]

_MODE = 0o777  # neither setuid nor sticky
_OWN = 0o700
_PIECE_BYTES = 65536
_MAX_DEPTH = 128
_OPAQUE = "user.overlay.opaque"
_BAD_NAME = "its name is longer than 1024 bytes or not UTF-8"


def load_archive(read: "Callable[[int], bytes]") -> None:
    """Make the current folder what the archive says. Raises OSError or ValueError."""
    loader = _Loader()
    for kind, payload in archive.read_frames(read):
        loader.apply(kind, payload)
    loader.finish()


class _Loader:
    def __init__(self) -> None:
        self._file = -1
        self._file_mtime = 0
        self._folders: list[tuple[str, int, int]] = []

    def apply(self, kind: bytes, payload: bytes) -> None:
        if kind == b"C":
            (offset,) = archive.CONTENT.unpack_from(payload)
            _write_at(self._file, payload[archive.CONTENT.size :], offset)
            return
        self._close_file()
        if kind == b"F":
            self._create_file(payload)
        elif kind == b"D":
            self._create_folder(payload)
        elif kind == b"X":
            _remove(os.fsdecode(payload))
        else:
            _create_link(kind, payload)

    def finish(self) -> None:
        """Set what writing to the folders would have changed or been refused by."""
        self._close_file()
        for path, mode, mtime in reversed(self._folders):
            if stat.S_ISDIR(_mode_of(path)):
                os.chmod(path, mode)
                os.utime(path, ns=(mtime, mtime))

    def _create_file(self, payload: bytes) -> None:
        mode, self._file_mtime, size = archive.FILE.unpack_from(payload)
        path = os.fsdecode(payload[archive.FILE.size :])
        _make_way(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.truncate(self._file, size)
        os.fchmod(self._file, mode & _MODE)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.utime(self._file, ns=(self._file_mtime, self._file_mtime))
            os.close(self._file)
            self._file = -1

    def _create_folder(self, payload: bytes) -> None:
        mode, mtime = archive.FOLDER.unpack_from(payload)
        path = os.fsdecode(payload[archive.FOLDER.size :])
        if not stat.S_ISDIR(_mode_of(path)):
            _make_way(path)
            os.mkdir(path)
        os.chmod(path, _OWN)
        self._folders.append((path, mode & _MODE, mtime))


def _write_at(fd: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _create_link(kind: bytes, payload: bytes) -> None:
    path, target = map(os.fsdecode, archive.split_link(payload))
    _make_way(path)
    if kind == b"L":
        os.symlink(target, path)
    else:
        os.link(target, path, follow_symlinks=False)


def _make_way(path: str) -> None:
    """Remove what has the path, and create its folder."""
    _remove(path)
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)


def _remove(path: str) -> None:
    mode = _mode_of(path)
    if stat.S_ISDIR(mode):
        os.chmod(path, _OWN)
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
    elif mode:
        os.unlink(path)


def _mode_of(path: str) -> int:
    """0 if there is nothing."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def save_archive(job: "dict[str, Any]", send: "SendFrame") -> None:
    """Send the archive in K frames, an N frame for each entry that is not in it, then a Y frame.

    With job["changes"] (where the upper folder of an overlay is seen) the archive holds what
    differs from the base. The Y frame holds why the archive is of no use, if so.
    """
    problem = b""
    try:
        _Saver(job["changes"], job["workspace_files"], send).save()
    except OSError as error:
        problem = (error.strerror or "it can't be read").encode()
    send(b"Y", problem)


class _Saver:
    def __init__(self, changes: str, max_entries: int, send: "SendFrame") -> None:
        self._source = changes or "."
        self._is_overlay = bool(changes)
        self._entries_left = max_entries
        self._send_frame = send
        self._buffer = bytearray()
        self._names: dict[tuple[int, int], bytes] = {}

    def save(self) -> None:
        todo = [""]
        while todo:
            folder = todo.pop()
            for name in sorted(os.listdir(f"{self._source}/{folder}")):
                path = f"{folder}{name}"
                if self._add_entry(path):
                    todo.append(f"{path}/")
        self._flush()

    def _add_entry(self, path: str) -> bool:
        """Add it; whether it is a folder whose entries are to be added."""
        name = os.fsencode(path)
        if not _is_valid_name(name):
            self._refuse(path, _BAD_NAME)
            return False
        info = os.lstat(f"{self._source}/{path}")
        self._entries_left -= 1
        if self._entries_left < 0:
            raise OSError(errno.ENOSPC, "it has more files than its limit")
        if stat.S_ISDIR(info.st_mode):
            return self._add_folder(name, path, info)
        if stat.S_ISREG(info.st_mode):
            self._add_file(name, path, info)
        elif stat.S_ISLNK(info.st_mode):
            target = os.fsencode(os.readlink(f"{self._source}/{path}"))
            self._add(archive.link_frame(b"L", name, target))
        elif self._is_overlay and stat.S_ISCHR(info.st_mode):  # its mark of what was removed
            self._add(archive.frame(b"X", name))
        else:
            self._refuse(path, "it is neither a file nor a folder nor a link")
        return False

    def _add_folder(self, name: bytes, path: str, info: os.stat_result) -> bool:
        if path.count("/") >= _MAX_DEPTH:
            self._refuse(path, "it is too deep")
            return False
        if self._is_overlay and _is_opaque(f"{self._source}/{path}"):
            self._add(archive.frame(b"X", name))
        head = archive.FOLDER.pack(info.st_mode & _MODE, info.st_mtime_ns)
        self._add(archive.frame(b"D", head + name))
        if info.st_mode & _OWN != _OWN:
            os.chmod(path, _OWN)
        return True

    def _add_file(self, name: bytes, path: str, info: os.stat_result) -> None:
        first = self._names.setdefault((info.st_dev, info.st_ino), name)
        if first != name:
            self._add(archive.link_frame(b"H", name, first))
            return
        if not info.st_mode & stat.S_IRUSR:
            os.chmod(path, _OWN)
        fd = os.open(f"{self._source}/{path}", os.O_RDONLY | os.O_NOFOLLOW)
        head = archive.FILE.pack(info.st_mode & _MODE, info.st_mtime_ns, info.st_size)
        self._add(archive.frame(b"F", head + name))
        offset = 0
        while offset < info.st_size:
            offset, end = _next_data(fd, offset, info.st_size)
            while offset < end and (data := self._read_piece(fd, offset, end)):
                offset += len(data)
        os.close(fd)

    def _read_piece(self, fd: int, offset: int, end: int) -> bytes:
        data = os.pread(fd, min(archive.CHUNK_BYTES, end - offset), offset)
        self._add(archive.frame(b"C", archive.CONTENT.pack(offset) + data))
        return data

    def _refuse(self, path: str, reason: str) -> None:
        self._send_frame(b"N", f"{path[:256]}: {reason}".encode(errors="replace"))

    def _add(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._send_frame(b"K", bytes(self._buffer))
            self._buffer.clear()


def _is_valid_name(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return len(name) <= archive.MAX_PATH_BYTES


def _is_opaque(path: str) -> bool:
    """Whether a folder of an overlay hides the base's folder of that name."""
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False


def _next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Start and end of the next part of a file that is no hole; (size, size) if none follows."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (offset, size)
