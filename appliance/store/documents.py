"""Nested values as JSON, in the form in which a column holds them.

Short ones are text. Longer ones are compressed, if that makes them shorter: a BLOB of the size
of the JSON (8 bytes, little-endian) and its zlib stream. SQLite keeps a BLOB in a TEXT column
as it is. Compressing takes tens of milliseconds per MiB: call `encode` in a thread for what may
be long.
"""

import zlib
from typing import Any

import msgspec

from appliance.errors import StoreError

MIN_COMPRESSED_BYTES = 16 * 1024
_SIZE_BYTES = 8
# What a zlib stream can be expanded to at most.
_MAX_RATIO = 1032
_LEVEL = 3


def encode(value: Any) -> str | bytes:
    """The value as text, or compressed."""
    document = msgspec.json.encode(value)
    if len(document) >= MIN_COMPRESSED_BYTES:
        compressed = zlib.compress(document, _LEVEL)
        if _SIZE_BYTES + len(compressed) < len(document):
            return len(document).to_bytes(_SIZE_BYTES, "little") + compressed
    return document.decode()


def decode(stored: str | bytes) -> Any:
    """The value of a column. Never expands more than its size says; raises StoreError."""
    return msgspec.json.decode(stored if isinstance(stored, str) else _expand(stored))


def _expand(stored: bytes) -> bytes:
    size, stream = int.from_bytes(stored[:_SIZE_BYTES], "little"), stored[_SIZE_BYTES:]
    if not 0 < size <= len(stream) * _MAX_RATIO:
        raise _damaged(f"it claims {size} bytes in {len(stream)}")
    expander = zlib.decompressobj()
    try:
        document = expander.decompress(stream, size)
        # The end of the stream can follow the last byte of the document.
        excess = expander.decompress(expander.unconsumed_tail, 1)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(document) != size or excess or not expander.eof:
        raise _damaged(f"it does not have the {size} bytes that it claims")
    return document


def _damaged(reason: str) -> StoreError:
    return StoreError(
        f"the database holds a damaged value: {reason}; run `monkey-coder doctor`, "
        "or restore a backup"
    )
