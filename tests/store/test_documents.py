"""Nested values in columns: text if short, compressed if long, never expanded without a bound."""

import random
import tracemalloc
import zlib

import pytest

from appliance.errors import StoreError
from appliance.store import documents

LONG = {"text": "def add(a, b): return a + b\n" * 5000}


def test_encode_when_short_then_text() -> None:
    assert documents.encode({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert documents.decode('{"a":[1,"é"]}') == {"a": [1, "é"]}


def test_encode_when_long_then_compressed_and_the_same_again() -> None:
    stored = documents.encode(LONG)
    assert isinstance(stored, bytes)
    assert len(stored) < 5000
    assert documents.decode(stored) == LONG


@pytest.mark.parametrize("size", [documents.MIN_COMPRESSED_BYTES - 20, 100_000])
def test_encode_when_compressing_gains_nothing_then_text(size: int) -> None:
    letters = [chr(code) for code in range(0x4E00, 0x9000)]
    value = {"text": "".join(random.Random(1).choices(letters, k=size // 3))}
    stored = documents.encode(value)
    assert documents.decode(stored) == value
    if isinstance(stored, bytes):
        assert len(stored) < size


def _claiming(size: int, stream: bytes) -> bytes:
    return size.to_bytes(8, "little") + stream


_BOMB = zlib.compress(bytes(64 << 20), 9)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"junk",
        documents.encode(LONG)[:-10],
        _claiming(1 << 60, zlib.compress(b"{}")),
        _claiming(2, _BOMB),
        _claiming(100, zlib.compress(b"{}")),
        _claiming(2, b"not a zlib stream"),
        _claiming(0, zlib.compress(b"")),
    ],
)
def test_decode_when_damaged_then_refused_before_it_is_expanded(stored: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(StoreError, match="damaged value"):
        documents.decode(stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20
