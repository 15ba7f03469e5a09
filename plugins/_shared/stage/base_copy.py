"""Copies the base of a run into the archive that its workspace is loaded from.

For machines and backends without overlay mounts. The copy counts against the workspace's limits.
"""

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from msgspec import structs

from appliance.domain.execution import Limits, RunRequest, WorkspaceTransfer
from appliance.errors import InvalidInput, SandboxUnavailable
from appliance.spi import workspace_archive as archive
from appliance.spi.cancellation import run_deferring_cancellation

_PIECE_BYTES = 1 << 20


@asynccontextmanager
async def copied_base(request: RunRequest) -> AsyncGenerator[RunRequest, None]:
    """The request without its base, whose files its workspace starts with.

    Raises InvalidInput if it does not fit, and SandboxUnavailable if it can't be read.
    """
    with tempfile.TemporaryFile(prefix="sandbox-base-") as file:
        copying = asyncio.to_thread(_write_archive, file, request)
        try:
            size, cancelled = await run_deferring_cancellation(copying)
        except OSError as error:
            raise SandboxUnavailable(
                f"the run's base can't be copied ({error.strerror})"
            ) from error
        if cancelled:
            raise asyncio.CancelledError
        target = request.workspace.target if request.workspace is not None else ""
        source = f"/proc/self/fd/{file.fileno()}"
        transfer = WorkspaceTransfer(target, source, size)
        yield structs.replace(request, base="", workspace=transfer)


def _write_archive(file: IO[bytes], request: RunRequest) -> int:
    """Write the base, then the workspace's own archive; the size of both."""
    check_base(request.base)
    for frame in _base_frames(request.base, request.limits):
        file.write(frame)
    transfer = request.workspace
    if transfer is not None and transfer.source_bytes:
        with Path(transfer.source).open("rb") as source:
            remaining = transfer.source_bytes
            while remaining and (data := source.read(min(_PIECE_BYTES, remaining))):
                remaining -= file.write(data)
    file.flush()
    return os.fstat(file.fileno()).st_size


def check_base(base: str) -> None:
    """Raises InvalidInput unless it is a folder."""
    if not Path(base).is_absolute() or not Path(base).is_dir():
        raise InvalidInput.at("base", "is not a folder of this machine")


def _base_frames(base: str, limits: Limits) -> Iterator[bytes]:
    """Frames of all files, folders and symbolic links of the base."""
    content = 0
    for entries, (path, info) in enumerate(_walk(base), start=1):
        content += info.st_size if stat.S_ISREG(info.st_mode) else 0
        if entries > limits.workspace_files or content > limits.workspace_bytes:
            raise InvalidInput.at(
                "base",
                f"does not fit into the workspace ({limits.workspace_bytes} bytes, "
                f"{limits.workspace_files} files), into which this sandbox has to copy it",
            )
        yield from _entry_frames(f"{base}/{path}", os.fsencode(path), info)


def _walk(base: str) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below the base, and what lies there; each folder before its content."""
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(f"{base}/{folder}") as found:
            for entry in found:
                path = f"{folder}{entry.name}"
                info = entry.stat(follow_symlinks=False)
                yield path, info
                if stat.S_ISDIR(info.st_mode):
                    todo.append(f"{path}/")


def _entry_frames(source: str, name: bytes, info: os.stat_result) -> Iterator[bytes]:
    mode = info.st_mode & 0o777
    if stat.S_ISDIR(info.st_mode):
        yield archive.frame(b"D", archive.FOLDER.pack(mode, info.st_mtime_ns) + name)
    elif stat.S_ISLNK(info.st_mode):
        yield archive.link_frame(b"L", name, os.fsencode(Path(source).readlink()))
    elif stat.S_ISREG(info.st_mode):
        yield archive.frame(b"F", archive.FILE.pack(mode, info.st_mtime_ns, info.st_size) + name)
        offset = 0
        with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            while data := file.read(min(archive.CHUNK_BYTES, info.st_size - offset)):
                yield archive.frame(b"C", archive.CONTENT.pack(offset) + data)
                offset += len(data)
