"""Tokens as far as the box can tell them before the provider has counted."""

from collections.abc import Sequence

from msgspec import Struct

from appliance.domain.messages import CompletionRequest, TokenUsage

_CHARACTERS_PER_TOKEN = 4
_PER_TEXT = 4


class Size(Struct, frozen=True):
    """About so many tokens of prompt; `max_tokens` None: as many as there is room for."""

    prompt_tokens: int
    max_tokens: int | None = None

    def at_most(self, context_tokens: int | None) -> TokenUsage:
        """What can be used, as far as that is bounded by anything."""
        room = max(0, context_tokens - self.prompt_tokens) if context_tokens else 0
        return TokenUsage(self.prompt_tokens, room if self.max_tokens is None else self.max_tokens)

    def seen(self, pieces: int) -> TokenUsage:
        """What was used of an answer that ended early: a piece of text is a token or more."""
        return TokenUsage(self.prompt_tokens, pieces)


def of_completion(request: CompletionRequest) -> Size:
    """From its texts."""
    if request.raw is not None:
        texts = [request.raw.text, request.raw.suffix or ""]
    else:
        texts = [message.content for message in request.messages]
        texts += [call.arguments for message in request.messages for call in message.tool_calls]
    return Size(_tokens(texts), request.max_tokens)


def of_texts(texts: Sequence[str]) -> Size:
    """From texts that nothing is written to."""
    return Size(_tokens(texts), 0)


def _tokens(texts: Sequence[str]) -> int:
    """Four characters each, as usual for text and code, and some for what frames a text."""
    return sum(map(len, texts)) // _CHARACTERS_PER_TOKEN + _PER_TEXT * len(texts)
