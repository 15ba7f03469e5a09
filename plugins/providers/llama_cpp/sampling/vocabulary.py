"""What samplers have to know of a model's vocabulary, found out once per model."""

import array
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import Struct

from plugins.providers.llama_cpp.native.bindings import Model

_MODELS_AT_ONCE = 4


class Vocabulary(Struct, frozen=True):
    """`hidden` are the tokens that an answer's text does not show, beside those that end it.

    `candidates` is llama.cpp's array of all of them, in order, with zeros for logits.
    `special` are the texts that a template may use as marks, and nobody else.
    """

    size: int
    hidden: tuple[int, ...]
    candidates: bytes
    special: tuple[str, ...] = ()

    def may_hold_special(self, text: str) -> bool:
        """Whether one of the special texts stands in it; much quicker than making tokens of it."""
        return any(special in text for special in self.special)


@lru_cache(maxsize=_MODELS_AT_ONCE)
def vocabulary(model: Model) -> Vocabulary:
    """Takes some ten milliseconds the first time; call it where nobody waits."""
    size = model.vocabulary_size
    special = list(_special(model, size))
    hidden = (
        token for token in special if not model.ends_generation(token) and not model.piece(token)
    )
    texts = {_text(model, token) for token in special} - {""}
    return Vocabulary(size, tuple(hidden), _candidates(size), tuple(sorted(texts)))


def fill_in_tokens(model: Model) -> tuple[int, int, int] | None:
    """The tokens before the prefix, the suffix and the middle, if the model has all three."""
    lib: Any = model.lib
    prefix, suffix, middle = (
        int(getattr(lib, f"llama_vocab_fim_{part}")(model.vocab)) for part in ("pre", "suf", "mid")
    )
    return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None


def _special(model: Model, size: int) -> Iterator[int]:
    lib: Any = model.lib
    flags = lib.LLAMA_TOKEN_ATTR_UNKNOWN | lib.LLAMA_TOKEN_ATTR_CONTROL
    for token in range(size):
        if int(lib.llama_vocab_get_attr(model.vocab, token)) & flags:
            yield token


def _text(model: Model, token: int) -> str:
    """As the tokenizer looks for it; "" where that is no text, which nobody can send."""
    found: bytes = model.lib.llama_vocab_get_text(model.vocab, token) or b""
    try:
        return found.decode()
    except UnicodeDecodeError:
        return ""


def _candidates(size: int) -> bytes:
    fields = array.array("i", bytes(12 * size))
    fields[0::3] = array.array("i", range(size))
    return fields.tobytes()
