"""The folder of the model files copied into the data directory."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import Conflict


@contextmanager
def lock_models_folder(folder: Path) -> Generator[None]:
    """Hold the lock of the models folder. Raises Conflict if another process holds it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def install_file(path: Path, final: Path) -> None:
    """Rename a file to its final path, with mode 0600, and sync the folder to disk."""
    path.chmod(0o600)
    path.replace(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict("another model is being added; try again when that has finished") from None
