"""Writes a tiny random embedding model: `bert`, two layers, a vocabulary of letters."""

import random
import struct
from pathlib import Path

from tests.support.gguf_writer import (
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    UINT32,
    array,
    entry,
    string,
    write_gguf,
)

_WIDTH, _FEED_FORWARD, _LAYERS, _HEADS = 32, 64, 2, 2
_MEAN = 1
DIMENSIONS = _WIDTH


def write_tiny_embedder(path: Path, *, context_tokens: int = 64, pooling: int = _MEAN) -> Path:
    """Write the model; returns its path. The same arguments give the same bytes."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # The converter's form of WordPiece: a word's first piece has a mark, the others none.
    tokens += [f"\u2581{chr(code)}" for code in range(33, 127)]
    tokens += [chr(code) for code in range(33, 127)]
    metadata = _metadata(tokens, context_tokens, pooling)
    tensors = _tensors(len(tokens), context_tokens)
    encoded = (
        (name, shape, struct.pack(f"<{len(values)}f", *values))
        for name, (shape, values) in tensors.items()
    )
    return write_gguf(path, metadata, encoded)


def _metadata(tokens: list[str], context: int, pooling: int) -> list[bytes]:
    numbers = {
        "bert.context_length": context,
        "bert.embedding_length": _WIDTH,
        "bert.block_count": _LAYERS,
        "bert.feed_forward_length": _FEED_FORWARD,
        "bert.attention.head_count": _HEADS,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }
    kinds = [3] * 5 + [1] * (len(tokens) - 5)
    return [
        entry("general.architecture", STRING, string("bert")),
        entry("general.name", STRING, string("tiny embedder")),
        *(entry(key, UINT32, struct.pack("<I", value)) for key, value in numbers.items()),
        entry("bert.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", 1e-12)),
        entry("bert.attention.causal", BOOL, b"\0"),
        entry("tokenizer.ggml.model", STRING, string("bert")),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(t) for t in tokens])),
        entry(
            "tokenizer.ggml.token_type",
            ARRAY,
            array(INT32, [struct.pack("<i", kind) for kind in kinds]),
        ),
    ]


def _tensors(vocabulary: int, context: int) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    rng = random.Random(11)

    def matrix(columns: int, rows: int) -> tuple[tuple[int, ...], list[float]]:
        scale = columns**-0.5
        return (columns, rows), [rng.gauss(0, scale) for _ in range(columns * rows)]

    def norm(name: str) -> dict[str, tuple[tuple[int, ...], list[float]]]:
        return {
            f"{name}.weight": ((_WIDTH,), [1.0] * _WIDTH),
            f"{name}.bias": ((_WIDTH,), [0.0] * _WIDTH),
        }

    tensors = {
        "token_embd.weight": matrix(_WIDTH, vocabulary),
        "token_types.weight": matrix(_WIDTH, 2),
        "position_embd.weight": matrix(_WIDTH, context),
        **norm("token_embd_norm"),
    }
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors |= {
                f"{block}{name}.weight": matrix(_WIDTH, _WIDTH),
                f"{block}{name}.bias": ((_WIDTH,), [0.0] * _WIDTH),
            }
        tensors |= norm(f"{block}attn_output_norm") | norm(f"{block}layer_output_norm")
        tensors |= {
            f"{block}ffn_up.weight": matrix(_WIDTH, _FEED_FORWARD),
            f"{block}ffn_up.bias": ((_FEED_FORWARD,), [0.0] * _FEED_FORWARD),
            f"{block}ffn_down.weight": matrix(_FEED_FORWARD, _WIDTH),
            f"{block}ffn_down.bias": ((_WIDTH,), [0.0] * _WIDTH),
        }
    return tensors
