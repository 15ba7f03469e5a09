"""Removes folders that killed executables have left unpacked.

PyInstaller's bootloader unpacks the executable into a folder named after its process id, and
removes it at the end unless it is killed. A lock on a file in the folder marks it as in use:
the process id alone is not enough, since its process may be in another PID namespace.
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
def mark_in_use(folder: Path) -> Generator[None, None, None]:
    """Mark the folder as one of ours, and lock it during the block.

    If the mark cannot be created, the folder is used without it and never removed by others.
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


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove this user's marked folders in `parent` whose process is gone; returns them."""
    abandoned = [folder for folder in parent.glob("_MEI*") if _is_abandoned(folder)]
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return abandoned


def _is_abandoned(folder: Path) -> bool:
    name = _NAME.fullmatch(folder.name)
    if name is None or Path("/proc", str(int(name[1], 16))).exists():
        return False
    try:
        if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
            return False
        mark = os.open(folder / _MARK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile, or not one of ours
        return False
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(mark)
    return True
