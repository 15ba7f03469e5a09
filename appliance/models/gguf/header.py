"""Parses the headers of GGUF files. Every length in them is checked before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
little-endian.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from appliance.domain.split_models import MAX_PARTS, PartName, model_files
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


class _Header(Struct, frozen=True):
    """The header of one file."""

    metadata: dict[str, Any]
    tensors: list[Tensor]
    fim_tokens: set[bytes]
    size: int


def inspect_model(path: Path, name: str = "") -> GgufInfo:
    """The properties of the model in complete GGUF files; `path` is the first or the only one.

    Errors name the model `name`, by default the file's name. Raises InvalidInput for a file
    that is truncated, has another format or version, or is not a language model by itself,
    and for a split model with a missing or wrong part.
    """
    name, files = name or path.name, model_files(path)
    first = _parse_part(files, 1, name)
    tensors, size = list(first.tensors), first.size
    for number in range(2, len(files) + 1):
        part = _parse_part(files, number, name)
        tensors += part.tensors
        size += part.size
        if len(tensors) > _MAX_TENSORS:
            raise InvalidInput(f"{name}: the parts have more than {_MAX_TENSORS} tensors")
    declared = _metadata_number(first, "split.tensors.count", len(tensors))
    if declared != len(tensors):
        raise InvalidInput(
            f"{name}: the parts have {len(tensors)} tensors, the first one declares {declared}; "
            "download them again, all from the same place"
        )
    if not tensors:
        raise InvalidInput(f"{name}: the header declares 0 tensors")
    try:
        return summarize(first.metadata, tensors, first.fim_tokens, size)
    except UnusableModelError as error:
        raise InvalidInput(f"{name}: {error}") from None


def _parse_part(files: list[Path], number: int, name: str) -> _Header:
    """The header of one file; must say the same of the parts as the files' names do."""
    label = name if len(files) == 1 else f"{name} (part {number} of {len(files)})"
    try:
        with files[number - 1].open("rb") as file:
            header = _HeaderParser(file, label).parse()
    except OSError as error:
        raise InvalidInput(f"{label}: can't be read: {error.strerror}") from None
    declared = _metadata_number(header, "split.count", 1)
    index = _metadata_number(header, "split.no", 0) + 1
    if (index, declared) == (number, len(files)):
        return header
    if declared > MAX_PARTS:
        raise InvalidInput(
            f"{label}: a model of {declared} parts (at most {MAX_PARTS}); merge them first: "
            "llama-gguf-split --merge"
        )
    if len(files) == 1:
        raise InvalidInput(
            f"{label}: part {index} of {declared} of a split model; put all parts into one "
            f"folder, named {PartName('NAME', 1, declared)} and so on, and add the first one"
        )
    raise InvalidInput(
        f"{label}: its header says part {index} of {declared}; the files of a split model must "
        "keep their names"
    )


def _metadata_number(header: _Header, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    return value if isinstance(value, int) else default


class _HeaderParser:
    """Reads a header once, from the start."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._reader = HeaderReader(file, name)
        self._fim_tokens: set[bytes] = set()

    def parse(self) -> _Header:
        tensor_count, pair_count = self._read_counts()
        metadata = dict(self._read_pair() for _ in range(pair_count))
        tensors = [self._read_tensor() for _ in range(tensor_count)]
        self._check_tensor_data(tensors, metadata)
        return _Header(metadata, tensors, self._fim_tokens, self._reader.size)

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
        if tensors > _MAX_TENSORS:
            raise self._reader.error(
                f"the header declares {tensors} tensors (at most {_MAX_TENSORS})"
            )
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
        needed = max((start + tensor.offset + tensor.bytes for tensor in tensors), default=0)
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
