"""Holds a registered model's file against its record: before each load, and cheaply."""

import asyncio
import hashlib
from pathlib import Path

from msgspec import structs

from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.models.sources.progress_io import drive, hash_file
from appliance.store.tables.models import StoredModel


async def check(path: Path, row: StoredModel) -> StoredModel:
    """The row with what was found. Raises InvalidInput with what is wrong with the file.

    The header is read each time. The content is only hashed if size or modification
    time are not those of the file that was hashed last.
    """
    try:
        found = await asyncio.to_thread(path.stat)
    except OSError as error:
        reason = error.strerror or "it can't be reached"
        raise InvalidInput(f"{row.alias}: its file cannot be read: {reason}") from error
    if (found.st_size, found.st_mtime_ns) != (row.size, row.checked_mtime_ns):
        await _check_content(path, found.st_size, row)
    info = await asyncio.to_thread(header.inspect, path, row.alias)
    return structs.replace(
        row,
        checked_mtime_ns=found.st_mtime_ns,
        kv_bytes_per_token=info.kv_bytes_per_token,
        embeds=info.embeds,
        fills_in=info.fills_in,
    )


async def _check_content(path: Path, size: int, row: StoredModel) -> None:
    remedy = f"put the file back, or `model remove {row.alias}` and add it again"
    if size != row.size:
        raise InvalidInput(
            f"{row.alias}: its file has {size} bytes, {row.size} when it was added; {remedy}"
        )
    digest = hashlib.sha256()
    try:
        await drive(hash_file(path, digest), _no_progress)
    except OSError as error:
        raise InvalidInput(f"{row.alias}: its file cannot be read: {error.strerror}") from error
    if digest.hexdigest() != row.sha256:
        raise InvalidInput(
            f"{row.alias}: its file was changed: SHA-256 {digest.hexdigest()}, "
            f"{row.sha256} when it was added; {remedy}"
        )


def _no_progress(_done: int) -> None:
    """Nobody watches."""
