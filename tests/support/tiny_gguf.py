"""Writes a tiny model with random weights as a GGUF file.

Architecture `llama`, a vocabulary of bytes and a few words, two layers: it loads and decodes in
milliseconds and generates nonsense. Its end tokens are never the most likely, so the caller
decides the length of an answer.
"""

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
    Weights,
    array,
    entry,
    string,
    write_gguf,
    write_split_gguf,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_EMBEDDING, _FEED_FORWARD, _LAYERS, _HEADS = 64, 96, 2, 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_NEVER_LIKELY = range(len(_SPECIAL))
FILL_IN_TOKENS = {"pre": 6, "suf": 7, "mid": 8}


def write_tiny_gguf(
    path: Path,
    *,
    context_tokens: int = 512,
    template: str | None = CHAT_TEMPLATE,
    architecture: str = "llama",
    fill_in: bool = False,
) -> Path:
    """Write the model; returns its path. The same arguments give the same bytes.

    With `fill_in` three of its tokens are the fill-in-the-middle tokens.
    """
    metadata, weights = _model(context_tokens, template, architecture)
    metadata += _fill_in_marks() if fill_in else []
    return write_gguf(path, metadata, weights)


def write_split_tiny_gguf(folder: Path, stem: str, count: int = 3) -> Path:
    """Write the model as several files; returns the path of the first."""
    metadata, weights = _model(512, CHAT_TEMPLATE, "llama")
    return write_split_gguf(folder, stem, metadata, weights, count)


def _model(
    context_tokens: int, template: str | None, architecture: str
) -> tuple[list[bytes], list[Weights]]:
    tokens, types = _vocabulary()
    tensors = _tensors(len(tokens))
    weights = [
        (name, shape, struct.pack(f"<{len(values)}f", *values))
        for name, (shape, values) in tensors.items()
    ]
    return _metadata(tokens, types, context_tokens, template, architecture), weights


def _vocabulary() -> tuple[list[str], list[int]]:
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    kinds = [_UNKNOWN, *[_CONTROL] * (len(_SPECIAL) - 1), *[_BYTE] * 256]
    return tokens, kinds + [_NORMAL] * (len(tokens) - len(kinds))


def _metadata(
    tokens: list[str], types: list[int], context: int, template: str | None, architecture: str
) -> list[bytes]:
    entries = [
        entry("general.architecture", STRING, string(architecture)),
        entry("general.name", STRING, string("tiny")),
        *(
            entry(f"{architecture}.{key}", UINT32, struct.pack("<I", value))
            for key, value in {
                "context_length": context,
                "embedding_length": _EMBEDDING,
                "block_count": _LAYERS,
                "feed_forward_length": _FEED_FORWARD,
                "attention.head_count": _HEADS,
                "attention.head_count_kv": _HEADS,
                "rope.dimension_count": _EMBEDDING // _HEADS,
            }.items()
        ),
        entry(f"{architecture}.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        entry("tokenizer.ggml.model", STRING, string("llama")),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(t) for t in tokens])),
        entry(
            "tokenizer.ggml.scores",
            ARRAY,
            array(FLOAT32, [struct.pack("<f", -float(at)) for at in range(len(tokens))]),
        ),
        entry(
            "tokenizer.ggml.token_type",
            ARRAY,
            array(INT32, [struct.pack("<i", kind) for kind in types]),
        ),
        *(
            entry(f"tokenizer.ggml.{which}_token_id", UINT32, struct.pack("<I", token))
            for which, token in {"unknown": 0, "bos": 1, "eos": 4}.items()
        ),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\x01"),
        entry("tokenizer.ggml.add_space_prefix", BOOL, b"\x00"),
    ]
    if template is not None:
        entries.append(entry("tokenizer.chat_template", STRING, string(template)))
    return entries


def _fill_in_marks() -> list[bytes]:
    return [
        entry(f"tokenizer.ggml.fim_{part}_token_id", UINT32, struct.pack("<I", token))
        for part, token in FILL_IN_TOKENS.items()
    ]


def _tensors(vocabulary: int) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    rng = random.Random(7)

    def matrix(columns: int, rows: int) -> tuple[tuple[int, ...], list[float]]:
        scale = columns**-0.5
        return (columns, rows), [rng.gauss(0, scale) for _ in range(columns * rows)]

    ones = ((_EMBEDDING,), [1.0] * _EMBEDDING)
    tensors = {"token_embd.weight": matrix(_EMBEDDING, vocabulary), "output_norm.weight": ones}
    for layer in range(_LAYERS):
        tensors |= {
            f"blk.{layer}.attn_norm.weight": ones,
            f"blk.{layer}.attn_q.weight": matrix(_EMBEDDING, _EMBEDDING),
            f"blk.{layer}.attn_k.weight": matrix(_EMBEDDING, _EMBEDDING),
            f"blk.{layer}.attn_v.weight": matrix(_EMBEDDING, _EMBEDDING),
            f"blk.{layer}.attn_output.weight": matrix(_EMBEDDING, _EMBEDDING),
            f"blk.{layer}.ffn_norm.weight": ones,
            f"blk.{layer}.ffn_gate.weight": matrix(_EMBEDDING, _FEED_FORWARD),
            f"blk.{layer}.ffn_up.weight": matrix(_EMBEDDING, _FEED_FORWARD),
            f"blk.{layer}.ffn_down.weight": matrix(_FEED_FORWARD, _EMBEDDING),
        }
    shape, values = matrix(_EMBEDDING, vocabulary)
    values[: len(_NEVER_LIKELY) * _EMBEDDING] = [0.0] * (len(_NEVER_LIKELY) * _EMBEDDING)
    return tensors | {"output.weight": (shape, [4 * value for value in values])}
