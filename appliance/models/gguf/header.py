"""Reads the header of a GGUF file, safely: no length in it is trusted before it is checked.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
little-endian.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import InvalidInput
from appliance.models.gguf.constants import GAP_MARKS, LONGEST_MARK, TENSOR_TYPES
from appliance.models.gguf.metadata import GgufInfo, Tensor, Unusable, summary
from appliance.models.gguf.reader import MAX_KEPT_TEXT, HeaderBytes

__all__ = ["MAGIC", "GgufInfo", "inspect"]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_NAME = 1 << 16
_MAX_TEXTS = 1 << 22
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_MIN_STRING = 8
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


def inspect(path: Path, name: str = "") -> GgufInfo:
    """Check that a file is a whole GGUF model and tell what it holds.

    `name` is what errors call it: the file's own name if not given.
    Raises InvalidInput, with the numbers, for a file that is truncated, of another
    kind or format version, or not a language model by itself.
    """
    try:
        with path.open("rb") as file:
            return _Header(file, name or path.name).info()
    except OSError as error:
        raise InvalidInput(f"{name or path.name}: cannot be read: {error.strerror}") from None


class _Header:
    """One pass over the header."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._bytes = HeaderBytes(file, name)
        self._marks: set[bytes] = set()

    def info(self) -> GgufInfo:
        tensor_count, pair_count = self._start()
        metadata = dict(self._pair() for _ in range(pair_count))
        tensors = [self._tensor() for _ in range(tensor_count)]
        self._check_data(tensors, metadata)
        try:
            return summary(metadata, tensors, self._marks, self._bytes.size)
        except Unusable as error:
            raise self._bytes.bad(str(error)) from None

    def _start(self) -> tuple[int, int]:
        if self._bytes.take(min(len(MAGIC), self._bytes.size)) != MAGIC:
            raise self._bytes.bad("not a GGUF file (it does not start with 'GGUF')")
        version = self._bytes.number("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(struct.pack(">I", version), "little")
            kind = "a big-endian file" if swapped in _VERSIONS else f"format version {version}"
            raise self._bytes.bad(f"{kind}; only little-endian versions 2 and 3 can be used")
        tensors, pairs = self._bytes.number("Q"), self._bytes.number("Q")
        if not 0 < tensors <= _MAX_TENSORS:
            raise self._bytes.bad(f"it says that it holds {tensors} tensors (1 to {_MAX_TENSORS})")
        if pairs > _MAX_PAIRS:
            raise self._bytes.bad(
                f"it says that it holds {pairs} metadata pairs (at most {_MAX_PAIRS})"
            )
        return tensors, pairs

    def _pair(self) -> tuple[str, Any]:
        key = self._bytes.text(_MAX_NAME)
        return key, self._value(self._bytes.number("I"))

    def _value(self, kind: int) -> Any:
        """A number, a text, or the length of an array; nothing else is kept."""
        if kind in _SCALARS:
            return self._bytes.number(_SCALARS[kind])
        if kind == _STRING:
            return self._bytes.kept_text()
        if kind == _ARRAY:
            return self._array()
        raise self._bytes.bad(f"metadata of unknown type {kind}")

    def _array(self) -> list[int]:
        kind, count = self._bytes.number("I"), self._bytes.number("Q")
        if kind in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[kind])
            return self._numbers(_SCALARS[kind], count, size)
        if kind != _STRING:
            raise self._bytes.bad(f"an array of unknown type {kind}")
        if count > _MAX_TEXTS:
            raise self._bytes.bad(f"an array of {count} texts (at most {_MAX_TEXTS})")
        self._bytes.need(count * _MIN_STRING)
        for _ in range(count):
            self._listed_text()
        return []

    def _listed_text(self) -> None:
        """One text of a list: only the marks of a gap are of interest."""
        length = self._bytes.number("Q")
        if length > LONGEST_MARK:
            self._bytes.skip(length)
            return
        text = self._bytes.take(length)
        if text in GAP_MARKS:
            self._marks.add(text)

    def _numbers(self, code: str, count: int, size: int) -> list[int]:
        """A short array of numbers, such as one per layer; a long one is skipped."""
        if count > MAX_KEPT_TEXT // size or code in "fd?":
            self._bytes.skip(count * size)
            return []
        return list(struct.unpack(f"<{count}{code}", self._bytes.kept(count * size)))

    def _tensor(self) -> Tensor:
        name = self._bytes.text(_MAX_NAME)
        count = self._bytes.number("I")
        if count > _MAX_DIMENSIONS:
            raise self._bytes.bad(f"tensor {name[:64]!r} has {count} dimensions")
        dimensions = tuple(self._bytes.number("Q") for _ in range(count))
        tensor = Tensor(name, dimensions, self._bytes.number("I"), self._bytes.number("Q"))
        if tensor.type not in TENSOR_TYPES:
            raise self._bytes.bad(
                f"tensor {name[:64]!r} has type {tensor.type}, unknown to this version"
            )
        return tensor

    def _check_data(self, tensors: list[Tensor], metadata: dict[str, Any]) -> None:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
            raise self._bytes.bad(f"an alignment of {alignment!r}")
        if alignment & (alignment - 1):
            raise self._bytes.bad(f"an alignment of {alignment}, which is no power of two")
        start = -(-self._bytes.at // alignment) * alignment
        needed = max(start + tensor.offset + tensor.bytes for tensor in tensors)
        if needed > self._bytes.size:
            raise self._bytes.bad(
                f"truncated: its tensors need {needed} bytes, "
                f"the file has {self._bytes.size}; get it again"
            )
        self._check_places(tensors, alignment)

    def _check_places(self, tensors: list[Tensor], alignment: int) -> None:
        """Every tensor at an aligned place of its own."""
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes)):
            if tensor.offset % alignment:
                raise self._bytes.bad(
                    f"tensor {tensor.name[:64]!r} lies at {tensor.offset}, "
                    f"which is no multiple of {alignment}"
                )
            if tensor.offset < end:
                raise self._bytes.bad(f"tensor {tensor.name[:64]!r} overlaps the one before it")
            end = tensor.offset + tensor.bytes
