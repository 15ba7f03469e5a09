"""The folder of the root file systems: changed by one process at a time, and as a whole."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from appliance.domain import rootfs
from appliance.errors import Conflict, SetupError
from appliance.sandbox.rootfs.formats.entries import shown

_UNFINISHED = ".unfinished-"


class RootHome:
    """`folder` holds one folder for each root; it is made when something is changed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Of those that have a record, in order. Raises OSError."""
        try:
            found = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return []
        named = (path for path in found if rootfs.NAME.fullmatch(path.name))
        return [path.name for path in named if (path / rootfs.RECORD).is_file()]

    @contextlib.contextmanager
    def one_at_a_time(self) -> Generator[None]:
        """Raises Conflict while another process is at work."""
        self.folder.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder beside the roots that is gone afterwards, unless it was published."""
        # Left by a process that was killed; nobody else is at work while we hold the lock.
        for left in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
        try:
            yield scratch
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    def publish(self, scratch: Path, name: str) -> None:
        """Have what is in `scratch` appear under that name, whole, also after a power cut."""
        scratch.chmod(0o755)
        _to_disk(scratch)
        scratch.rename(self.folder / name)
        _to_disk(self.folder)


@contextlib.contextmanager
def told(failed: str) -> Generator[None]:
    """What the system refuses, in words."""
    try:
        yield
    except OSError as error:
        what = f"{shown(str(error.filename))}: " if error.filename else ""
        raise SetupError(f"{failed}: {what}{error.strerror or error}") from error


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict("another root file system is being added or removed; wait for it") from None


def _to_disk(folder: Path) -> None:
    """Everything on that file system, so that a name which outlives a power cut is whole."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
