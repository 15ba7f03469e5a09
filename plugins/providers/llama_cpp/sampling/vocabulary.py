"""Facts about a model's vocabulary that samplers and prompts need, computed once per model."""

import array
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import Struct

from plugins.providers.llama_cpp.native.bindings import Model

_CACHED_MODELS = 4


class Vocabulary(Struct, frozen=True):
    """`hidden` are the tokens that have no text, except those that end an answer.

    `token_data` is llama.cpp's array of all tokens, in order, with zeros for logits. `special`
    are the texts of control tokens, which only a template may use.
    """

    size: int
    hidden: tuple[int, ...]
    token_data: bytes
    special: tuple[str, ...] = ()

    def may_contain_special(self, text: str) -> bool:
        """Whether a special text occurs in it; much faster than tokenizing it."""
        return any(special in text for special in self.special)


@lru_cache(maxsize=_CACHED_MODELS)
def load_vocabulary(model: Model) -> Vocabulary:
    """Takes about ten milliseconds the first time for a model."""
    size = model.vocabulary_size
    special = list(_special_tokens(model, size))
    hidden = (
        token for token in special if not model.ends_generation(token) and not model.piece(token)
    )
    texts = {_special_text(model, token) for token in special} - {""}
    return Vocabulary(size, tuple(hidden), _token_data(size), tuple(sorted(texts)))


def fill_in_tokens(model: Model) -> tuple[int, int, int] | None:
    """The fill-in-the-middle tokens of prefix, suffix and middle, if the model has all three."""
    lib: Any = model.lib
    prefix, suffix, middle = (
        int(getattr(lib, f"llama_vocab_fim_{part}")(model.vocab)) for part in ("pre", "suf", "mid")
    )
    return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None


def _special_tokens(model: Model, size: int) -> Iterator[int]:
    lib: Any = model.lib
    flags = lib.LLAMA_TOKEN_ATTR_UNKNOWN | lib.LLAMA_TOKEN_ATTR_CONTROL
    for token in range(size):
        if int(lib.llama_vocab_get_attr(model.vocab, token)) & flags:
            yield token


def _special_text(model: Model, token: int) -> str:
    """As the tokenizer searches for it; "" if it is not UTF-8, which no request can contain."""
    text: bytes = model.lib.llama_vocab_get_text(model.vocab, token) or b""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""


def _token_data(size: int) -> bytes:
    fields = array.array("i", bytes(12 * size))
    fields[0::3] = array.array("i", range(size))
    return fields.tobytes()
