"""Parses a streamed completion of the Gemini API, which ends with the stream."""

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
from plugins._shared.http_provider.client import decode_json
from plugins._shared.http_provider.error_body import ProviderErrorBody, sanitize
from plugins._shared.http_provider.sse import ServerEvent
from plugins.providers.google.thought_signatures import ThoughtSignatureCache
from plugins.providers.google.wire import (
    Candidate,
    Chunk,
    FunctionCall,
    Logprobs,
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


class GeminiStreamParser:
    """Emits text and tool calls as they come; a blocked prompt ends with CONTENT_FILTER."""

    def __init__(
        self,
        name: str,
        signatures: ThoughtSignatureCache,
        parse_error: Callable[[object], ProviderErrorBody],
    ) -> None:
        self.done = False
        self._name = name
        self._signatures = signatures
        self._parse_error = parse_error
        self._reason: FinishReason | None = None
        self._has_calls = False
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """The events in this chunk."""
        chunk = decode_json(self._name, event.data, Chunk)
        if chunk.error:
            raise failures.from_stream_error(
                self._name, self._parse_error(msgspec.json.decode(event.data))
            )
        self._usage = chunk.usage_metadata or self._usage
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._reason = FinishReason.CONTENT_FILTER
        return [each for candidate in chunk.candidates or () for each in self._events(candidate)]

    def finish(self) -> Iterable[CompletionEvent]:
        """Finished, if the completion is complete."""
        if self._reason is None or self._usage is None:
            raise failures.retryable_failure(
                self._name, "the stream ended before the completion was complete"
            )
        has_calls = self._has_calls and self._reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if has_calls else self._reason
        yield Finished(reason, _token_usage(self._usage))

    def _events(self, candidate: Candidate) -> Iterator[CompletionEvent]:
        if candidate.index:
            return
        likelihoods = _likelihoods(candidate.logprobs_result)
        for part in (candidate.content and candidate.content.parts) or ():
            if part.function_call is not None:
                yield self._tool_call(part.function_call, part.thought_signature)
            elif part.text and not part.thought:
                yield TextDelta(part.text, likelihoods)
                likelihoods = ()
        if likelihoods:
            yield TextDelta("", likelihoods)
        if candidate.finish_reason:
            self._reason = self._finish_reason(candidate)

    def _tool_call(self, call: FunctionCall, signature: str) -> ToolCall:
        self._has_calls = True
        id_ = call.id or f"call_{secrets.token_hex(12)}"
        self._signatures.store(id_, signature)
        return ToolCall(id_, call.name, msgspec.json.encode(call.args or {}).decode())

    def _finish_reason(self, candidate: Candidate) -> FinishReason:
        reason = _REASONS.get(candidate.finish_reason or "")
        if reason is None:
            message = sanitize(candidate.finish_message) or "no message"
            raise failures.retryable_failure(
                self._name,
                f"the completion ended with {sanitize(str(candidate.finish_reason))}: {message}",
            )
        return reason


def _likelihoods(logprobs: Logprobs | None) -> tuple[TokenLikelihood, ...]:
    chosen = (logprobs and logprobs.chosen_candidates) or []
    tops = (logprobs and logprobs.top_candidates) or []
    alternatives = [[_likelihood(token) for token in top.candidates or ()] for top in tops]
    alternatives += [[] for _ in range(len(chosen) - len(alternatives))]
    return tuple(
        TokenLikelihood(_likelihood(token), tuple(top))
        for token, top in zip(chosen, alternatives, strict=False)
    )


def _likelihood(token: Token) -> Likelihood:
    return Likelihood(token.token, token.log_probability, token.token.encode())


def _token_usage(usage: Usage) -> TokenUsage:
    return TokenUsage(
        usage.prompt_token_count + usage.tool_use_prompt_token_count,
        usage.candidates_token_count + usage.thoughts_token_count,
        usage.cached_content_token_count,
        reasoning_tokens=usage.thoughts_token_count,
    )
