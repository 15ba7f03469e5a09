"""Small GGUF files, valid or hostile, by the specification of the format."""

import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ALIGNMENT = 32
F32 = 0
U32, F32_VALUE, STRING, ARRAY, U64 = 4, 6, 8, 9, 10

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.context_length": 256,
    "llama.block_count": 2,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "general.file_type": 0,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", STRING) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", F32_VALUE, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", U32, value)
    return text(key) + _array(value)


def _array(values: Sequence[str | int]) -> bytes:
    value_type = STRING if isinstance(values[0], str) else U32
    items = [text(v) if isinstance(v, str) else struct.pack("<I", v) for v in values]
    return struct.pack("<IIQ", ARRAY, value_type, len(values)) + b"".join(items)


def tensor(name: str, dimensions: Sequence[int], value_type: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", value_type, offset)


def header(tensors: int, pairs: int, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, pairs)


def gguf(metadata: Mapping[str, Any] = METADATA, elements: int = 64) -> bytes:
    """A whole file with one tensor of 32-bit floats."""
    pairs = b"".join(pair(key, value) for key, value in metadata.items())
    head = header(1, len(metadata)) + pairs + tensor("w", [elements], F32, 0)
    padding = b"\0" * (-len(head) % ALIGNMENT)
    # Like real weights, these bytes hardly compress.
    return head + padding + random.Random(elements).randbytes(4 * elements)


def write_gguf(path: Path, **changes: Any) -> Path:
    """A whole file; `changes` replace metadata, by key with dots as double underscores."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    metadata = {k: v for k, v in (METADATA | changed).items() if v is not None}
    path.write_bytes(gguf(metadata))
    return path
