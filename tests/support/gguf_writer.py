"""Encodes the parts of a GGUF file and writes it."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
_F32 = 0


def entry(key: str, kind: int, value: bytes) -> bytes:
    """One pair of the metadata."""
    return string(key) + struct.pack("<I", kind) + value


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def write_gguf(
    path: Path, metadata: Sequence[bytes], tensors: Iterable[tuple[str, tuple[int, ...], bytes]]
) -> Path:
    """Write a file of 32-bit weights: names, shapes (the fastest dimension first), bytes."""
    infos, parts, offset, count = b"", list[bytes](), 0, 0
    for name, shape, values in tensors:
        infos += string(name) + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", _F32, offset)
        parts.append(_padded(values))
        offset += len(parts[-1])
        count += 1
    head = struct.pack("<4sIQQ", b"GGUF", 3, count, len(metadata)) + b"".join(metadata)
    path.write_bytes(_padded(head + infos) + b"".join(parts))
    return path


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
