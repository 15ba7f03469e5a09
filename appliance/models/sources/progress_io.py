"""Copies and hashes large files in steps, for progress and cancellation between the steps."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

_CHUNK_BYTES = 4 * 1024 * 1024


class Digest(Protocol):
    """A hash object of hashlib, whose type has no public name."""

    def update(self, data: bytes, /) -> None: ...


async def run_steps(steps: Iterator[int], report: Callable[[int], None]) -> None:
    """Run each step in a thread and report the number of bytes processed so far."""
    while (done := await asyncio.to_thread(next, steps, None)) is not None:
        report(done)


def copy_stream(source: IO[bytes], target: Path, digest: Digest) -> Iterator[int]:
    """Copy to a new file of mode 0600 and fsync it; yields the bytes copied so far."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in _chunks(source, digest):
            file.write(chunk)
            yield file.tell()
        file.flush()
        os.fsync(file.fileno())


def copy_files(sources: Sequence[Path], targets: Sequence[Path], digest: Digest) -> Iterator[int]:
    """Copy each source to its target; yields the bytes copied so far of all."""
    before = 0
    for source, target in zip(sources, targets, strict=True):
        copied = 0
        with source.open("rb") as file:
            for copied in copy_stream(file, target, digest):
                yield before + copied
        before += copied


def hash_files(paths: Sequence[Path], digest: Digest) -> Iterator[int]:
    """Update `digest` with the files' joined content; yields the bytes read so far."""
    done = 0
    for path in paths:
        with path.open("rb") as file:
            for chunk in _chunks(file, digest):
                done += len(chunk)
                yield done


def _chunks(source: IO[bytes], digest: Digest) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        yield chunk
