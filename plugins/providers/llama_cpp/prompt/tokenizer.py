"""Tokenizes long texts in linear time, and stops early if there are too many tokens.

llama.cpp cuts a text at its special tokens first. For each of them it searches the whole rest of
the text, so that its time grows with the square of a text with many of them: a chat of 20,000
short messages takes minutes. Such a text is given to it in pieces that begin with a special
token, where it would cut anyway.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from plugins.providers.llama_cpp.native.bindings import Model

_PIECE_CHARACTERS = 4096
# As far beyond its limit a prompt is tokenized, so that errors can tell the exact number.
_SLACK = 4
# Texts with fewer bytes per token of room are likely to fit, and are not counted first.
_LIKELY_BYTES = 4
# Texts so long are refused as soon as they certainly don't fit.
_LARGE_BYTES = 256 * 1024
# The most tokens that one cut may add.
_CUT_TOKENS = 16
_SPACES = " \u2581"


class TooManyTokens(Exception):
    """A text has at least so many tokens, which is more than it may have."""

    def __init__(self, at_least: int) -> None:
        super().__init__(f"at least {at_least} tokens")
        self.at_least = at_least


class Tokenizer:
    """The tokenizer of one model. `longest_token` is the number of bytes of its longest token."""

    def __init__(self, model: Model) -> None:
        """Takes about ten milliseconds for each 100,000 tokens of the vocabulary."""
        self._model = model
        lib: Any = model.lib
        control = lib.LLAMA_TOKEN_ATTR_UNKNOWN | lib.LLAMA_TOKEN_ATTR_CONTROL
        self.longest_token = 1
        defined: list[str] = []
        special: list[str] = []
        for token in range(model.vocabulary_size):
            text: bytes = lib.llama_vocab_get_text(model.vocab, token) or b""
            self.longest_token = max(self.longest_token, len(text))
            flags = int(lib.llama_vocab_get_attr(model.vocab, token))
            if flags & lib.LLAMA_TOKEN_ATTR_LSTRIP or not text:
                continue
            if flags & control:
                special.append(text.decode("utf-8", "replace"))
            elif flags & lib.LLAMA_TOKEN_ATTR_USER_DEFINED:
                defined.append(text.decode("utf-8", "replace"))
        self._plain_borders = _borders(defined, [*defined, *special])
        self._special_borders = _borders([*defined, *special], [*defined, *special])

    def tokenize(
        self,
        text: str,
        *,
        parse_special: bool,
        room: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> list[int]:
        """The tokens. `check` is called between pieces and may raise.

        Raises NativeError, or TooManyTokens if there are certainly more than `room`: at once for
        a text whose bytes tell it, for a very long one as soon as they have been found, else when
        several times as many have been found.
        """
        if room is not None:
            self._require_room(text, room, check, parse_special=parse_special)
        tokens: list[int] = []
        for piece in self._pieces(text, parse_special=parse_special):
            tokens += self._model.tokenize(piece, parse_special=parse_special)
            if room is not None and len(tokens) > room * _SLACK:
                raise TooManyTokens(len(tokens))
            if check is not None:
                check()
        return tokens

    def _require_room(
        self, text: str, room: int, check: Callable[[], None] | None, *, parse_special: bool
    ) -> None:
        size = len(text.encode("utf-8", "replace"))
        if size > room * self.longest_token:
            raise TooManyTokens(size // self.longest_token)
        if size <= room * _LIKELY_BYTES:
            return
        limit = room if size > _LARGE_BYTES else room * _SLACK
        at_least = 0
        for start in range(0, len(text), _PIECE_CHARACTERS):
            piece = text[start : start + _PIECE_CHARACTERS]
            count = len(self._model.tokenize(piece, parse_special=parse_special))
            at_least += max(0, count - _CUT_TOKENS)
            if at_least > limit:
                raise TooManyTokens(at_least)
            if check is not None:
                check()

    def _pieces(self, text: str, *, parse_special: bool) -> Iterator[str]:
        borders = self._special_borders if parse_special else self._plain_borders
        start = 0
        while borders and (border := borders.search(text, start + _PIECE_CHARACTERS)):
            yield text[start : border.start()]
            start = border.start()
        yield text[start:]


def _borders(texts: list[str], every: list[str]) -> re.Pattern[str] | None:
    """Where llama.cpp cuts for certain: tokens that can't overlap with any other one."""
    firsts = {text[0] for text in every}
    rests = set("".join(text[1:] for text in every))
    safe = [
        re.escape(text)
        for text in sorted(texts, key=len, reverse=True)
        if text[0] not in rests and firsts.isdisjoint(text[1:]) and not set(_SPACES) & set(text)
    ]
    return re.compile("|".join(safe)) if safe else None
