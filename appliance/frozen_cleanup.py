"""What the executable has unpacked for itself: one that was killed leaves it to the next.

Its first process makes a folder, named after its process id, and removes it at the end; but
not if it is killed too. A folder in use is marked by a lock, since its owner may not be seen
from another process namespace.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".monkey-coder"
_NAME = re.compile(r"_MEI([0-9a-f]{8})\w{6}")


@contextmanager
def claimed(folder: Path) -> Generator[None, None, None]:
    """The folder is known for ours from now on, and nobody removes it meanwhile.

    Where there is no room for the mark, it is one that will not be removed for us.
    """
    try:
        mark = os.open(folder / _MARK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(mark, fcntl.LOCK_SH)
        yield
    finally:
        os.close(mark)


def remove_leftovers(place: Path) -> list[Path]:
    """Remove the folders there of executables of ours, and of this user, that are gone."""
    found = [folder for folder in place.glob("_MEI*") if _left_over(folder)]
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _left_over(folder: Path) -> bool:
    name = _NAME.fullmatch(folder.name)
    if name is None or Path("/proc", str(int(name[1], 16))).exists():
        return False
    try:
        if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
            return False
        mark = os.open(folder / _MARK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone by now, or no folder of ours
        return False
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(mark)
    return True
