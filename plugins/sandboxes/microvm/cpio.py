"""An archive of files as the kernel unpacks it at its start: cpio, "newc" (initramfs)."""

import io
import stat
from collections.abc import Mapping

_MAGIC = b"070701"
_LAST = "TRAILER!!!"
_ALIGNMENT = 4


def archive(folders: tuple[str, ...], programs: Mapping[str, bytes]) -> bytes:
    """These folders and these executable files, by their paths without a leading slash."""
    out = io.BytesIO()
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in programs.items()]
    for number, (name, mode, content) in enumerate(entries, start=1):
        _write(out, number, name, mode, content)
    _write(out, 0, _LAST, 0, b"")
    return out.getvalue()


def _write(out: io.BytesIO, number: int, name: str, mode: int, content: bytes) -> None:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino, mode, uid, gid, nlink, mtime, size, device twice, length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    out.write(_MAGIC + b"".join(b"%08X" % value for value in fields) + path)
    _pad(out)
    out.write(content)
    _pad(out)


def _pad(out: io.BytesIO) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))
