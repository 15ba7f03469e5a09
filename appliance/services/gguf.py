"""Reads the header of a GGUF file, safely: no length in it is trusted before it is checked.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3,
little-endian.
"""

import math
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, cast

from msgspec import Struct

from appliance.errors import InvalidInput
from appliance.services.gguf_tables import (
    ENCODERS,
    FILE_TYPES,
    GAP_MARKS,
    GAP_TEXTS,
    LONGEST_MARK,
    TENSOR_TYPES,
)

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_NAME = 1 << 16
_MAX_KEPT_TEXT = 1 << 16
_MAX_KEPT = 16 << 20
_MAX_TEXTS = 1 << 22
_MAX_CONTEXT = 1 << 31
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


class GgufInfo(Struct, frozen=True):
    """What the header says; `kv_bytes_per_token` is of a 16-bit cache, 0 if unknown.

    `embeds`: it makes vectors of texts; `fills_in`: its vocabulary has the marks for
    the text before and after a gap.
    """

    architecture: str
    name: str
    parameters: int
    context_tokens: int
    quantization: str
    size: int
    kv_bytes_per_token: int
    chat_template: bool
    embeds: bool = False
    fills_in: bool = False


class _Tensor(Struct, frozen=True):
    name: str
    dimensions: tuple[int, ...]
    type: int
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        _, elements, size = TENSOR_TYPES[self.type]
        return -(-self.elements // elements) * size


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
    """One pass over the header; every read is held against the file's real size."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._room = _MAX_KEPT
        self._marks: set[bytes] = set()

    def info(self) -> GgufInfo:
        tensor_count, pair_count = self._start()
        metadata = dict(self._pair() for _ in range(pair_count))
        tensors = [self._tensor() for _ in range(tensor_count)]
        self._check_data(tensors, metadata)
        return self._summary(metadata, tensors)

    def _start(self) -> tuple[int, int]:
        if self._take(min(len(MAGIC), self._size)) != MAGIC:
            raise self._bad("not a GGUF file (it does not start with 'GGUF')")
        version = self._number("I")
        if version not in _VERSIONS:
            swapped = int.from_bytes(struct.pack(">I", version), "little")
            kind = "a big-endian file" if swapped in _VERSIONS else f"format version {version}"
            raise self._bad(f"{kind}; only little-endian versions 2 and 3 can be used")
        tensors, pairs = self._number("Q"), self._number("Q")
        if not 0 < tensors <= _MAX_TENSORS:
            raise self._bad(f"it says that it holds {tensors} tensors (1 to {_MAX_TENSORS})")
        if pairs > _MAX_PAIRS:
            raise self._bad(f"it says that it holds {pairs} metadata pairs (at most {_MAX_PAIRS})")
        return tensors, pairs

    def _pair(self) -> tuple[str, Any]:
        key = self._text(_MAX_NAME)
        return key, self._value(self._number("I"))

    def _value(self, kind: int) -> Any:
        """A number, a text, or the length of an array; nothing else is kept."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._kept_text()
        if kind == _ARRAY:
            return self._array()
        raise self._bad(f"metadata of unknown type {kind}")

    def _array(self) -> list[int]:
        kind, count = self._number("I"), self._number("Q")
        if kind in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[kind])
            return self._numbers(_SCALARS[kind], count, size)
        if kind != _STRING:
            raise self._bad(f"an array of unknown type {kind}")
        if count > _MAX_TEXTS:
            raise self._bad(f"an array of {count} texts (at most {_MAX_TEXTS})")
        self._need(count * _MIN_STRING)
        for _ in range(count):
            self._listed_text()
        return []

    def _listed_text(self) -> None:
        """One text of a list: only the marks of a gap are of interest."""
        length = self._number("Q")
        if length > LONGEST_MARK:
            self._skip(length)
            return
        text = self._take(length)
        if text in GAP_MARKS:
            self._marks.add(text)

    def _numbers(self, code: str, count: int, size: int) -> list[int]:
        """A short array of numbers, such as one per layer; a long one is skipped."""
        if count > _MAX_KEPT_TEXT // size or code in "fd?":
            self._skip(count * size)
            return []
        return list(struct.unpack(f"<{count}{code}", self._kept(count * size)))

    def _tensor(self) -> _Tensor:
        name = self._text(_MAX_NAME)
        count = self._number("I")
        if count > _MAX_DIMENSIONS:
            raise self._bad(f"tensor {name[:64]!r} has {count} dimensions")
        dimensions = tuple(self._number("Q") for _ in range(count))
        tensor = _Tensor(name, dimensions, self._number("I"), self._number("Q"))
        if tensor.type not in TENSOR_TYPES:
            raise self._bad(f"tensor {name[:64]!r} has type {tensor.type}, unknown to this version")
        return tensor

    def _check_data(self, tensors: list[_Tensor], metadata: dict[str, Any]) -> None:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
            raise self._bad(f"an alignment of {alignment!r}")
        if alignment & (alignment - 1):
            raise self._bad(f"an alignment of {alignment}, which is no power of two")
        start = -(-self._at // alignment) * alignment
        needed = max(start + tensor.offset + tensor.bytes for tensor in tensors)
        if needed > self._size:
            raise self._bad(
                f"truncated: its tensors need {needed} bytes, "
                f"the file has {self._size}; get it again"
            )
        self._check_places(tensors, alignment)

    def _check_places(self, tensors: list[_Tensor], alignment: int) -> None:
        """Every tensor at an aligned place of its own."""
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes)):
            if tensor.offset % alignment:
                raise self._bad(
                    f"tensor {tensor.name[:64]!r} lies at {tensor.offset}, "
                    f"which is no multiple of {alignment}"
                )
            if tensor.offset < end:
                raise self._bad(f"tensor {tensor.name[:64]!r} overlaps the one before it")
            end = tensor.offset + tensor.bytes

    def _summary(self, metadata: dict[str, Any], tensors: list[_Tensor]) -> GgufInfo:
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._bad("it does not name its architecture (general.architecture)")
        parts = metadata.get("split.count", 0)
        if isinstance(parts, int) and parts > 1:
            raise self._bad(f"one of {parts} parts; merge them first: llama-gguf-split --merge")
        context = metadata.get(f"{architecture}.context_length")
        if not isinstance(context, int) or context <= 0:
            raise self._bad(f"not a language model: {architecture[:64]!r} without a context length")
        name = metadata.get("general.name")
        return GgufInfo(
            architecture=architecture[:64],
            name=name[:200] if isinstance(name, str) else "",
            parameters=sum(tensor.elements for tensor in tensors),
            context_tokens=context,
            quantization=_quantization(metadata.get("general.file_type"), tensors),
            size=self._size,
            kv_bytes_per_token=_kv_bytes_per_token(metadata, architecture),
            chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
            embeds=_embeds(metadata, architecture),
            fills_in=_fills_in(metadata, self._marks),
        )

    def _kept_text(self) -> str:
        length = self._number("Q")
        if length <= _MAX_KEPT_TEXT:
            return self._kept(length).decode(errors="replace")
        self._skip(length)
        return ""

    def _text(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise self._bad(f"a name of {length} bytes")
        return self._kept(length).decode(errors="replace")

    def _kept(self, count: int) -> bytes:
        self._room -= count
        if self._room < 0:
            raise self._bad(f"more than {_MAX_KEPT} bytes of metadata")
        return self._take(count)

    def _number(self, code: str) -> Any:
        kind = "<" + code
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _take(self, count: int) -> bytes:
        self._need(count)
        self._at += count
        content = self._file.read(count)
        if len(content) < count:
            raise self._bad("it shrank while it was read")
        return content

    def _skip(self, count: int) -> None:
        self._need(count)
        self._at += count
        self._file.seek(self._at)

    def _need(self, count: int) -> None:
        if count > self._size - self._at:
            raise self._bad(
                f"truncated: its header needs {self._at + count} bytes, "
                f"the file has {self._size}; get it again"
            )

    def _bad(self, reason: str) -> InvalidInput:
        return InvalidInput(f"{self._name}: {reason}")


def _quantization(file_type: Any, tensors: list[_Tensor]) -> str:
    """The name of the file type, else of the type that most of the weights have."""
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    elements = Counter[int]()
    for tensor in tensors:
        elements[tensor.type] += tensor.elements
    most, _ = elements.most_common(1)[0]
    return TENSOR_TYPES[most][0]


def _embeds(metadata: dict[str, Any], architecture: str) -> bool:
    """Encoders, and other models whose last layer is pooled to one vector."""
    pooling = metadata.get(f"{architecture}.pooling_type", 0)
    return architecture in ENCODERS or (isinstance(pooling, int) and pooling > 0)


def _fills_in(metadata: dict[str, Any], marks: set[bytes]) -> bool:
    """The marks are named by their numbers, or known by their texts."""
    named = all(
        any(f"tokenizer.ggml.{name}_token_id" in metadata for name in names)
        for names in (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
    )
    return named or all(any(mark in marks for mark in each) for each in GAP_TEXTS)


def _kv_bytes_per_token(metadata: dict[str, Any], architecture: str) -> int:
    def number(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}")
        # Some architectures say it per layer; the largest bounds the need from above.
        if isinstance(value, list):
            value = max(cast("list[int]", value), default=0)
        return value if isinstance(value, int) and 0 < value < 1 << 32 else 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key = number("attention.key_length") or width
    value = number("attention.value_length") or width
    kv_heads = number("attention.head_count_kv") or heads
    return 2 * number("block_count") * kv_heads * (key + value)
