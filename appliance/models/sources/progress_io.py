"""Work on large files in steps, so that it shows progress and can be cancelled between them."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

_CHUNK = 4 * 1024 * 1024


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...


async def drive(steps: Iterator[int], report: Callable[[int], None]) -> None:
    """Run the steps in a thread, one by one, and report the bytes done after each."""
    while (done := await asyncio.to_thread(next, steps, None)) is not None:
        report(done)


def copy(source: IO[bytes], target: Path, digest: Digest) -> Iterator[int]:
    """Copy to a new file of mode 0600, on disk at the end; yields the bytes done so far."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in _chunks(source, digest):
            file.write(chunk)
            yield file.tell()
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, target: Path, digest: Digest) -> Iterator[int]:
    with source.open("rb") as file:
        yield from copy(file, target, digest)


def hash_file(path: Path, digest: Digest) -> Iterator[int]:
    """Read a file into a digest; yields the bytes done so far."""
    with path.open("rb") as file:
        for _ in _chunks(file, digest):
            yield file.tell()


def _chunks(source: IO[bytes], digest: Digest) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        yield chunk
