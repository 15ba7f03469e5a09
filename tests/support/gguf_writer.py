"""Encodes the parts of a GGUF file and writes it."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

UINT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
_F32 = 0

Weights = tuple[str, tuple[int, ...], bytes]


def entry(key: str, kind: int, value: bytes) -> bytes:
    """One pair of the metadata."""
    return string(key) + struct.pack("<I", kind) + value


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def write_gguf(path: Path, metadata: Sequence[bytes], tensors: Iterable[Weights]) -> Path:
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


def write_split_gguf(
    folder: Path, stem: str, metadata: Sequence[bytes], tensors: Sequence[Weights], count: int
) -> Path:
    """Write a model as `count` files of weights; returns the path of the first.

    As llama-gguf-split writes them: the metadata in the first file, the place in all.
    """
    size = -(-len(tensors) // count)
    for at in range(count):
        place = [
            entry("split.no", UINT16, struct.pack("<H", at)),
            entry("split.count", UINT16, struct.pack("<H", count)),
            entry("split.tensors.count", INT32, struct.pack("<i", len(tensors))),
        ]
        path = folder / f"{stem}-{at + 1:05d}-of-{count:05d}.gguf"
        own = [*metadata, *place] if at == 0 else place
        write_gguf(path, own, tensors[at * size : (at + 1) * size])
    return folder / f"{stem}-00001-of-{count:05d}.gguf"


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
