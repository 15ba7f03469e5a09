"""Token estimates, for limits and reservations before a provider has counted."""

from collections.abc import Sequence

from msgspec import Struct

from appliance.domain.messages import CompletionRequest, TokenUsage

# Usual for English text and code; what separates two texts of a prompt is tokens, too.
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_TEXT = 4


class TokenEstimate(Struct, frozen=True):
    """Estimated prompt tokens. `max_tokens` is a cap; None: up to the end of the context."""

    prompt_tokens: int
    max_tokens: int | None = None

    def upper_bound(self, context_tokens: int | None) -> TokenUsage:
        """The most that can be used; without any bound, only the prompt is counted."""
        bounds = [] if self.max_tokens is None else [self.max_tokens]
        if context_tokens:
            bounds.append(max(0, context_tokens - self.prompt_tokens))
        return TokenUsage(self.prompt_tokens, min(bounds, default=0))

    def partial_usage(self, pieces: int) -> TokenUsage:
        """The usage of an answer that ended after `pieces` text events, of one token or more."""
        return TokenUsage(self.prompt_tokens, pieces)


def estimate_completion(request: CompletionRequest) -> TokenEstimate:
    if request.raw is not None:
        texts = [request.raw.text, request.raw.suffix or ""]
    else:
        texts = [message.content for message in request.messages]
        texts += [call.arguments for message in request.messages for call in message.tool_calls]
    return TokenEstimate(_count(texts), request.max_tokens)


def estimate_texts(texts: Sequence[str]) -> TokenEstimate:
    """For embeddings: no completion follows the texts."""
    return TokenEstimate(_count(texts), 0)


def _count(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) // _CHARACTERS_PER_TOKEN + _TOKENS_PER_TEXT * len(texts)
