"""What the header of a GGUF file says of its model."""

import math
from collections import Counter
from typing import Any, cast

from msgspec import Struct

from appliance.models.gguf.constants import ENCODERS, FILE_TYPES, GAP_TEXTS, TENSOR_TYPES


class Unusable(Exception):
    """The file holds no model that can be used by itself; the text says why."""


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


class Tensor(Struct, frozen=True):
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


def summary(
    metadata: dict[str, Any], tensors: list[Tensor], marks: set[bytes], size: int
) -> GgufInfo:
    """What the header comes to. Raises Unusable with the reason."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise Unusable("it does not name its architecture (general.architecture)")
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise Unusable(f"one of {parts} parts; merge them first: llama-gguf-split --merge")
    context = metadata.get(f"{architecture}.context_length")
    if not isinstance(context, int) or context <= 0:
        raise Unusable(f"not a language model: {architecture[:64]!r} without a context length")
    name = metadata.get("general.name")
    return GgufInfo(
        architecture=architecture[:64],
        name=name[:200] if isinstance(name, str) else "",
        parameters=sum(tensor.elements for tensor in tensors),
        context_tokens=context,
        quantization=_quantization(metadata.get("general.file_type"), tensors),
        size=size,
        kv_bytes_per_token=_kv_bytes_per_token(metadata, architecture),
        chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
        embeds=_embeds(metadata, architecture),
        fills_in=_fills_in(metadata, marks),
    )


def _quantization(file_type: Any, tensors: list[Tensor]) -> str:
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
