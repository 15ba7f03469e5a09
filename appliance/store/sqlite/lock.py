"""A lock file beside the database: one server per database; released by the kernel at exit."""

import fcntl
import os
from pathlib import Path

from appliance.errors import StoreError


class DatabaseLock:
    """An exclusive flock from `acquire` to `release`. The file holds the owner's process id."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises StoreError, which names the owning process."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreError(
                f"the database {self._path.with_suffix('')} is in use by another monkey-coder "
                f"(process {holder or 'unknown'}); stop that one, or choose another data directory"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"the file system of {self._path} can't lock files ({error.strerror}); "
                "put the data directory on a local disk"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. The file stays: with a new file two processes could hold a lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"can't write {self._path}: {error.strerror}; "
                "check the owner and the permissions of the data directory"
            ) from error
