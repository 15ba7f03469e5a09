"""Properties of a model, derived from the metadata and tensors of its GGUF header."""

import math
from collections import Counter
from typing import Any, cast

from msgspec import Struct

from appliance.models.gguf.constants import (
    ARCHITECTURES,
    ENCODER_ARCHITECTURES,
    FILE_TYPES,
    FIM_TOKEN_GROUPS,
    TENSOR_TYPES,
)


class UnusableModelError(Exception):
    """The file is not a model that can be loaded by itself; the text is the reason."""


class GgufInfo(Struct, frozen=True):
    """`kv_bytes_per_token` is for a 16-bit KV cache, 0 if unknown.

    `embeds`: an embedding model. `fills_in`: the vocabulary has fill-in-the-middle tokens.
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


def summarize(
    metadata: dict[str, Any], tensors: list[Tensor], fim_tokens: set[bytes], size: int
) -> GgufInfo:
    """The properties of the model. Raises UnusableModelError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise UnusableModelError("general.architecture is missing")
    kind = metadata.get("general.type")
    if architecture == "clip" or kind == "mmproj":
        raise UnusableModelError(
            "a projector (mmproj), which only extends a language model; add that model's file"
        )
    if kind == "adapter":
        raise UnusableModelError("an adapter (LoRA); merge it into its base model and add that")
    if architecture not in ARCHITECTURES:
        raise UnusableModelError(
            f"the bundled llama.cpp can't load the architecture {architecture[:64]!r}"
        )
    context = metadata.get(f"{architecture}.context_length")
    if not isinstance(context, int) or context <= 0:
        raise UnusableModelError(f"not a language model: {architecture!r} without context_length")
    name = metadata.get("general.name")
    return GgufInfo(
        architecture=architecture,
        name=name[:200] if isinstance(name, str) else "",
        parameters=sum(tensor.elements for tensor in tensors),
        context_tokens=context,
        quantization=_quantization(metadata.get("general.file_type"), tensors),
        size=size,
        kv_bytes_per_token=_kv_bytes_per_token(metadata, architecture),
        chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
        embeds=_is_embedding_model(metadata, architecture),
        fills_in=_supports_fim(metadata, fim_tokens),
    )


def _quantization(file_type: Any, tensors: list[Tensor]) -> str:
    """The name of the file type, or of the tensor type of most weights."""
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    elements = Counter[int]()
    for tensor in tensors:
        elements[tensor.type] += tensor.elements
    [(tensor_type, _)] = elements.most_common(1)
    return TENSOR_TYPES[tensor_type][0]


def _is_embedding_model(metadata: dict[str, Any], architecture: str) -> bool:
    """Encoders, and models with pooling."""
    pooling = metadata.get(f"{architecture}.pooling_type", 0)
    return architecture in ENCODER_ARCHITECTURES or (isinstance(pooling, int) and pooling > 0)


def _supports_fim(metadata: dict[str, Any], fim_tokens: set[bytes]) -> bool:
    """Whether the metadata names FIM token ids, or the vocabulary has known FIM tokens."""
    has_ids = all(
        any(f"tokenizer.ggml.{name}_token_id" in metadata for name in names)
        for names in (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
    )
    return has_ids or all(group & fim_tokens for group in FIM_TOKEN_GROUPS)


def _kv_bytes_per_token(metadata: dict[str, Any], architecture: str) -> int:
    def number(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}")
        # Some architectures give one value per layer; the largest is an upper bound.
        if isinstance(value, list):
            value = max(cast("list[int]", value), default=0)
        return value if isinstance(value, int) and 0 < value < 1 << 32 else 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key = number("attention.key_length") or width
    value = number("attention.value_length") or width
    kv_heads = number("attention.head_count_kv") or heads
    return 2 * number("block_count") * kv_heads * (key + value)
