"""Reads a streamed answer of the Gemini API. Its end is the end of the stream."""

import secrets
from collections.abc import Callable, Iterable, Iterator

import msgspec

from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    FinishReason,
    Likelihood,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)
from plugins._shared.http_provider import failures
from plugins._shared.http_provider.client import decoded
from plugins._shared.http_provider.error_body import Said, clean
from plugins._shared.http_provider.sse import ServerEvent
from plugins.providers.google.signatures import Signatures
from plugins.providers.google.wire import (
    Candidate,
    FunctionCall,
    Logprobs,
    Piece,
    Token,
    Usage,
)

_REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "LANGUAGE": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
}


class Reader:
    """Text and calls as they come; a blocked prompt is an answer that the filter ended."""

    def __init__(
        self, name: str, signatures: Signatures, explain: Callable[[object], Said]
    ) -> None:
        self.done = False
        self._name = name
        self._signatures = signatures
        self._explain = explain
        self._reason: FinishReason | None = None
        self._called = False
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """What the piece adds to the answer."""
        piece = decoded(self._name, event.data, Piece)
        if piece.error:
            raise failures.in_stream(self._name, self._explain(msgspec.json.decode(event.data)))
        self._usage = piece.usage_metadata or self._usage
        if piece.prompt_feedback is not None and piece.prompt_feedback.block_reason:
            self._reason = FinishReason.CONTENT_FILTER
        return [told for candidate in piece.candidates or () for told in self._told(candidate)]

    def end(self) -> Iterable[CompletionEvent]:
        """Finished, if the answer has an end."""
        if self._reason is None or self._usage is None:
            raise failures.broken(self._name, "the answer ended before it was complete")
        called = self._called and self._reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if called else self._reason
        yield Finished(reason, _total(self._usage))

    def _told(self, candidate: Candidate) -> Iterator[CompletionEvent]:
        if candidate.index:
            return
        likelihoods = _likelihoods(candidate.logprobs_result)
        for part in (candidate.content and candidate.content.parts) or ():
            if part.function_call is not None:
                yield self._call(part.function_call, part.thought_signature)
            elif part.text and not part.thought:
                yield TextDelta(part.text, likelihoods)
                likelihoods = ()
        if likelihoods:
            yield TextDelta("", likelihoods)
        if candidate.finish_reason:
            self._reason = self._finish(candidate)

    def _call(self, found: FunctionCall, signature: str) -> ToolCall:
        self._called = True
        id_ = found.id or f"call_{secrets.token_hex(12)}"
        self._signatures.keep(id_, signature)
        return ToolCall(id_, found.name, msgspec.json.encode(found.args or {}).decode())

    def _finish(self, candidate: Candidate) -> FinishReason:
        known = _REASONS.get(candidate.finish_reason or "")
        if known is None:
            why = clean(candidate.finish_message) or "it says no more"
            raise failures.broken(
                self._name, f"the answer ended with {clean(str(candidate.finish_reason))}: {why}"
            )
        return known


def _likelihoods(found: Logprobs | None) -> tuple[TokenLikelihood, ...]:
    chosen = (found and found.chosen_candidates) or []
    tops = (found and found.top_candidates) or []
    told = [[_likelihood(token) for token in top.candidates or ()] for top in tops]
    told += [[] for _ in range(len(chosen) - len(told))]
    return tuple(
        TokenLikelihood(_likelihood(token), tuple(top))
        for token, top in zip(chosen, told, strict=False)
    )


def _likelihood(token: Token) -> Likelihood:
    return Likelihood(token.token, token.log_probability, token.token.encode())


def _total(usage: Usage) -> TokenUsage:
    return TokenUsage(
        usage.prompt_token_count + usage.tool_use_prompt_token_count,
        usage.candidates_token_count + usage.thoughts_token_count,
        usage.cached_content_token_count,
    )
