"""The folder of all root file systems: changed by one process at a time, atomically."""

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
from appliance.sandbox.rootfs.formats.entries import quote_path

_UNFINISHED = ".unfinished-"


class RootfsDirectory:
    """`folder` holds one folder per root file system; it is created by the first change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Sorted names of the root file systems that have a record. Raises OSError."""
        try:
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return []
        valid = (path for path in paths if rootfs.NAME_PATTERN.fullmatch(path.name))
        return [path.name for path in valid if (path / rootfs.RECORD_FILE).is_file()]

    @contextlib.contextmanager
    def exclusive_lock(self) -> Generator[None]:
        """Hold the lock for changes. Raises Conflict while another process holds it."""
        self.folder.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def scratch_folder(self) -> Generator[Path]:
        """A temporary folder beside the root file systems; removed on exit unless published."""
        # Remains of processes that were killed; the lock is held, so none of them is in use.
        for stale in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(stale)
        scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.folder))
        try:
            yield scratch
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    def publish(self, scratch: Path, name: str) -> None:
        """Rename `scratch` to that name; atomic and durable, also after a power failure."""
        scratch.chmod(0o755)
        _sync_file_system(scratch)
        scratch.rename(self.folder / name)
        _sync_file_system(self.folder)


@contextlib.contextmanager
def translate_os_errors(failure: str) -> Generator[None]:
    """Raise SetupError that begins with `failure` in place of an OSError."""
    try:
        yield
    except OSError as error:
        path = f"{quote_path(str(error.filename))}: " if error.filename else ""
        raise SetupError(f"{failure}: {path}{error.strerror or error}") from error


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(
            "another root file system is being added or removed; retry when it is done"
        ) from None


def _sync_file_system(folder: Path) -> None:
    """Write the whole file system to disk, so that a published folder is durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
