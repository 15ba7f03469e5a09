"""Verifies the files of a registered model against its record, before each load."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, structs

from appliance.domain.split_models import model_files
from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.models.sources.progress_io import hash_files, run_steps
from appliance.store.tables.models import ModelRow

_MAX_INTEGER = 2**63 - 1


class FileStamp(Struct, frozen=True):
    """The total size of a model's files, and a number that changes with their times.

    `mtime_ns` is the modification time of a single file, the sum of several (modulo 2**63).
    """

    size: int
    mtime_ns: int


def read_stamp(files: Sequence[Path]) -> FileStamp:
    """Raises OSError."""
    found = [file.stat() for file in files]
    return FileStamp(
        sum(status.st_size for status in found),
        sum(status.st_mtime_ns for status in found) & _MAX_INTEGER,
    )


async def verify_files(path: Path, row: ModelRow) -> ModelRow:
    """The row updated from the files; `path` is the first or the only one.

    Reads the headers each time. Hashes the content only if the size or a modification time
    differs from those at the last verification. Raises InvalidInput if a file is damaged or
    changed.
    """
    files = model_files(path)
    try:
        stamp = await asyncio.to_thread(read_stamp, files)
    except OSError as error:
        reason = error.strerror or "not accessible"
        raise InvalidInput(f"{row.alias}: can't read the file: {reason}") from error
    if stamp != FileStamp(row.size, row.checked_mtime_ns):
        await _verify_content(files, stamp.size, row)
    info = await asyncio.to_thread(header.inspect_model, path, row.alias)
    return structs.replace(
        row,
        checked_mtime_ns=stamp.mtime_ns,
        kv_bytes_per_token=info.kv_bytes_per_token,
        embeds=info.embeds,
        fills_in=info.fills_in,
    )


async def _verify_content(files: Sequence[Path], size: int, row: ModelRow) -> None:
    remedy = f"restore the file, or run `model remove {row.alias}` and add it again"
    if size != row.size:
        raise InvalidInput(
            f"{row.alias}: the file has {size} bytes, it had {row.size} when added; {remedy}"
        )
    digest = hashlib.sha256()
    try:
        await run_steps(hash_files(files, digest), lambda _done: None)
    except OSError as error:
        raise InvalidInput(f"{row.alias}: can't read the file: {error.strerror}") from error
    if digest.hexdigest() != row.sha256:
        raise InvalidInput(
            f"{row.alias}: the file was changed: its SHA-256 is {digest.hexdigest()}, it was "
            f"{row.sha256} when added; {remedy}"
        )
