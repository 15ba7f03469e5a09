"""Becomes a program of an ordinary user, on a machine where the tests run as root.

python -m tests.support.ordinary_user UID PROGRAM [ARGUMENT…]

An interpreter or a project below a folder that others can't enter (as /root) would not be
readable to that user. So this process takes a mount namespace of its own, hides such a
folder behind an empty one, and shows only what is needed in it. The machine keeps its own
view, and the namespace is gone with the program.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 0x4000, 1 << 18


def needed() -> list[Path]:
    """Folders that a program of the project reads."""
    return [Path(sys.prefix), Path(sys.base_prefix), ROOT]


def closed_above(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that others can't enter; None if there is none."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def become(uid: int, words: list[str]) -> None:
    """Replace this process by the program, with the rights of `uid` alone."""
    hidden = {path: closed for path in needed() if (closed := closed_above(path))}
    if hidden:
        _call("unshare", _CLONE_NEWNS)
        _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE)
        # Opened first: an empty folder is about to cover them.
        sources = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in hidden}
        _cover(hidden.values())
        for path, source in sources.items():
            path.mkdir(parents=True, exist_ok=True)
            _mount(b"/proc/self/fd/%d" % source, os.fsencode(path), None, _MS_BIND | _MS_REC)
            os.close(source)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execvp(words[0], words)


def _cover(folders: Iterable[Path]) -> None:
    for folder in sorted(set(folders)):
        _mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=0755,size=1m")


def _mount(
    source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None
) -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def _call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
