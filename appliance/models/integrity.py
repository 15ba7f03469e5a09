"""Verifies the file of a registered model against its record, before each load."""

import asyncio
import hashlib
from pathlib import Path

from msgspec import structs

from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.models.sources.progress_io import hash_file, run_steps
from appliance.store.tables.models import ModelRow


async def verify_file(path: Path, row: ModelRow) -> ModelRow:
    """The row updated from the file. Raises InvalidInput if the file is damaged or changed.

    Reads the header each time. Hashes the content only if the size or the modification
    time differ from those at the last verification.
    """
    try:
        status = await asyncio.to_thread(path.stat)
    except OSError as error:
        reason = error.strerror or "not accessible"
        raise InvalidInput(f"{row.alias}: can't read the file: {reason}") from error
    if (status.st_size, status.st_mtime_ns) != (row.size, row.checked_mtime_ns):
        await _verify_content(path, status.st_size, row)
    info = await asyncio.to_thread(header.inspect_model, path, row.alias)
    return structs.replace(
        row,
        checked_mtime_ns=status.st_mtime_ns,
        kv_bytes_per_token=info.kv_bytes_per_token,
        embeds=info.embeds,
        fills_in=info.fills_in,
    )


async def _verify_content(path: Path, size: int, row: ModelRow) -> None:
    remedy = f"restore the file, or run `model remove {row.alias}` and add it again"
    if size != row.size:
        raise InvalidInput(
            f"{row.alias}: the file has {size} bytes, it had {row.size} when added; {remedy}"
        )
    digest = hashlib.sha256()
    try:
        await run_steps(hash_file(path, digest), lambda _done: None)
    except OSError as error:
        raise InvalidInput(f"{row.alias}: can't read the file: {error.strerror}") from error
    if digest.hexdigest() != row.sha256:
        raise InvalidInput(
            f"{row.alias}: the file was changed: its SHA-256 is {digest.hexdigest()}, it was "
            f"{row.sha256} when added; {remedy}"
        )
