"""The folder of the box's own model files."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import Conflict


@contextmanager
def one_at_a_time(folder: Path) -> Generator[None]:
    """Nobody else adds a model meanwhile. Raises Conflict where somebody does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def move(path: Path, final: Path) -> None:
    """Put a file in its final place, private and on disk."""
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
        raise Conflict("another model is being added to this box; wait for it") from None
