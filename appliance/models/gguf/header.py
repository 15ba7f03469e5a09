"""Parses the header of a GGUF file. Every length in it is checked before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
little-endian.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import InvalidInput
from appliance.models.gguf.constants import FIM_TOKENS, MAX_FIM_TOKEN_BYTES, TENSOR_TYPES
from appliance.models.gguf.metadata import GgufInfo, Tensor, UnusableModelError, summarize
from appliance.models.gguf.reader import MAX_TEXT_BYTES, HeaderReader

__all__ = ["MAGIC", "GgufInfo", "inspect_model"]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 1 << 16
_MAX_ARRAY_TEXTS = 1 << 22
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_MIN_STRING_BYTES = 8
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


def inspect_model(path: Path, name: str = "") -> GgufInfo:
    """The properties of the model in a complete GGUF file.

    Errors name the file `name`, by default its file name. Raises InvalidInput for a file
    that is truncated, has another format or version, or is not a language model by itself.
    """
    try:
        with path.open("rb") as file:
            return _HeaderParser(file, name or path.name).parse()
    except OSError as error:
        raise InvalidInput(f"{name or path.name}: can't be read: {error.strerror}") from None


class _HeaderParser:
    """Reads a header once, from the start."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._reader = HeaderReader(file, name)
        self._fim_tokens: set[bytes] = set()

    def parse(self) -> GgufInfo:
        tensor_count, pair_count = self._read_counts()
        metadata = dict(self._read_pair() for _ in range(pair_count))
        tensors = [self._read_tensor() for _ in range(tensor_count)]
        self._check_tensor_data(tensors, metadata)
        try:
            return summarize(metadata, tensors, self._fim_tokens, self._reader.size)
        except UnusableModelError as error:
            raise self._reader.error(str(error)) from None

    def _read_counts(self) -> tuple[int, int]:
        if self._reader.read(min(len(MAGIC), self._reader.size)) != MAGIC:
            raise self._reader.error("not a GGUF file (it does not start with 'GGUF')")
        version = self._reader.read_number("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(struct.pack(">I", version), "little")
            kind = "a big-endian file" if swapped in _VERSIONS else f"format version {version}"
            raise self._reader.error(
                f"{kind}; only little-endian files of version 2 or 3 are supported"
            )
        tensors, pairs = self._reader.read_number("Q"), self._reader.read_number("Q")
        if not 0 < tensors <= _MAX_TENSORS:
            raise self._reader.error(f"the header declares {tensors} tensors (1 to {_MAX_TENSORS})")
        if pairs > _MAX_PAIRS:
            raise self._reader.error(
                f"the header declares {pairs} metadata pairs (at most {_MAX_PAIRS})"
            )
        return tensors, pairs

    def _read_pair(self) -> tuple[str, Any]:
        key = self._reader.read_name(_MAX_NAME_BYTES)
        return key, self._read_value(self._reader.read_number("I"))

    def _read_value(self, kind: int) -> Any:
        """A number, a text, or the numbers of a short array; other values are skipped."""
        if kind in _SCALARS:
            return self._reader.read_number(_SCALARS[kind])
        if kind == _STRING:
            return self._reader.read_text()
        if kind == _ARRAY:
            return self._read_array()
        raise self._reader.error(f"metadata value of unknown type {kind}")

    def _read_array(self) -> list[int]:
        kind, count = self._reader.read_number("I"), self._reader.read_number("Q")
        if kind in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[kind])
            return self._read_numbers(_SCALARS[kind], count, size)
        if kind != _STRING:
            raise self._reader.error(f"metadata array of unknown type {kind}")
        if count > _MAX_ARRAY_TEXTS:
            raise self._reader.error(
                f"metadata array of {count} texts (at most {_MAX_ARRAY_TEXTS})"
            )
        self._reader.require(count * _MIN_STRING_BYTES)
        for _ in range(count):
            self._scan_text()
        return []

    def _scan_text(self) -> None:
        """Read one text of an array; only FIM tokens are kept."""
        length = self._reader.read_number("Q")
        if length > MAX_FIM_TOKEN_BYTES:
            self._reader.skip(length)
            return
        text = self._reader.read(length)
        if text in FIM_TOKENS:
            self._fim_tokens.add(text)

    def _read_numbers(self, code: str, count: int, size: int) -> list[int]:
        """The numbers of a short array, such as one per layer; a long one is skipped."""
        if count > MAX_TEXT_BYTES // size or code in "fd?":
            self._reader.skip(count * size)
            return []
        return list(struct.unpack(f"<{count}{code}", self._reader.read_kept(count * size)))

    def _read_tensor(self) -> Tensor:
        name = self._reader.read_name(_MAX_NAME_BYTES)
        count = self._reader.read_number("I")
        if count > _MAX_DIMENSIONS:
            raise self._reader.error(
                f"tensor {name[:64]!r} has {count} dimensions (at most {_MAX_DIMENSIONS})"
            )
        dimensions = tuple(self._reader.read_number("Q") for _ in range(count))
        tensor = Tensor(
            name, dimensions, self._reader.read_number("I"), self._reader.read_number("Q")
        )
        if tensor.type not in TENSOR_TYPES:
            raise self._reader.error(f"tensor {name[:64]!r} has the unknown type {tensor.type}")
        return tensor

    def _check_tensor_data(self, tensors: list[Tensor], metadata: dict[str, Any]) -> None:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
            raise self._reader.error(f"invalid alignment {alignment!r} (1 to {_MAX_ALIGNMENT})")
        if alignment & (alignment - 1):
            raise self._reader.error(f"invalid alignment {alignment}: not a power of two")
        start = -(-self._reader.position // alignment) * alignment
        needed = max(start + tensor.offset + tensor.bytes for tensor in tensors)
        if needed > self._reader.size:
            raise self._reader.error(
                f"truncated: the tensors need {needed} bytes, the file has "
                f"{self._reader.size}; download it again"
            )
        self._check_offsets(tensors, alignment)

    def _check_offsets(self, tensors: list[Tensor], alignment: int) -> None:
        """Raises InvalidInput unless every tensor is aligned and none overlaps another."""
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes)):
            if tensor.offset % alignment:
                raise self._reader.error(
                    f"tensor {tensor.name[:64]!r} is at offset {tensor.offset}, which is not a "
                    f"multiple of {alignment}"
                )
            if tensor.offset < end:
                raise self._reader.error(f"tensor {tensor.name[:64]!r} overlaps the previous one")
            end = tensor.offset + tensor.bytes
