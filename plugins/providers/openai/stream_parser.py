"""Parses a streamed completion of OpenAI's API."""

import secrets
from collections.abc import Callable, Iterable, Iterator

import msgspec

from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    FinishReason,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)
from plugins._shared.http_provider import failures
from plugins._shared.http_provider.client import decode_json
from plugins._shared.http_provider.error_body import ProviderErrorBody
from plugins._shared.http_provider.sse import ServerEvent
from plugins.providers.openai.logprobs import convert_logprobs
from plugins.providers.openai.wire import Choice, Chunk, ToolCallDelta, Usage

_DONE = b"[DONE]"
_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class _PartialToolCall:
    """A tool call that is assembled from deltas."""

    def __init__(self, index: int | None, id_: str) -> None:
        self.index = index
        self.id = id_
        self.name = ""
        self.arguments: list[str] = []

    def to_tool_call(self) -> ToolCall:
        id_ = self.id or f"call_{secrets.token_hex(12)}"
        return ToolCall(id_, self.name, "".join(self.arguments) or "{}")


class OpenAIStreamParser:
    """Parses chat and raw completions; emits tool calls when complete, before Finished."""

    def __init__(self, name: str, parse_error: Callable[[object], ProviderErrorBody]) -> None:
        self.done = False
        self._name = name
        self._parse_error = parse_error
        self._calls: list[_PartialToolCall] = []
        self._pending_logprobs: tuple[TokenLikelihood, ...] = ()
        self._reason: str | None = None
        self._stop = ""
        self._refused = False
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """The text in this chunk."""
        if event.data.strip() == _DONE:
            self.done = True
            return ()
        chunk = decode_json(self._name, event.data, Chunk)
        if chunk.error or chunk.object == "error" or event.kind == "error":
            raise failures.from_stream_error(
                self._name, self._parse_error(msgspec.json.decode(event.data))
            )
        self._usage = chunk.usage or self._usage
        return [event for choice in chunk.choices or () for event in self._events(choice)]

    def finish(self) -> Iterable[CompletionEvent]:
        """The tool calls, then Finished."""
        if self._reason is None:
            raise failures.retryable_failure(
                self._name, "the stream ended before the completion was complete"
            )
        if self._usage is None:
            raise failures.provider_failed(
                self._name, "it sent no usage; it must support stream_options.include_usage"
            )
        if self._pending_logprobs:
            yield TextDelta("", self._pending_logprobs)
        yield from (call.to_tool_call() for call in self._calls)
        yield Finished(self._finish_reason(), _usage(self._usage), self._stop)

    def _events(self, choice: Choice) -> Iterator[CompletionEvent]:
        if choice.index:
            return
        if choice.logprobs is not None:
            self._pending_logprobs += convert_logprobs(choice.logprobs)
        text = choice.text or ""
        if choice.delta is not None:
            text += (choice.delta.content or "") + (choice.delta.refusal or "")
            self._refused = self._refused or bool(choice.delta.refusal)
            for delta in choice.delta.tool_calls or ():
                self._append(delta)
        if choice.finish_reason:
            self._reason = choice.finish_reason
            self._stop = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
        if text:
            logprobs, self._pending_logprobs = self._pending_logprobs, ()
            yield TextDelta(text, logprobs)

    def _append(self, delta: ToolCallDelta) -> None:
        call = self._calls[-1] if self._calls else None
        same = [other for other in self._calls if other.index == delta.index]
        if delta.index is not None:
            call = same[-1] if same else None
        # Some servers number every call 0; then a new id starts a new call.
        if call is None or (delta.id and call.id and delta.id != call.id):
            call = _PartialToolCall(delta.index, delta.id or "")
            self._calls.append(call)
        call.id = call.id or delta.id or ""
        if delta.function is not None:
            call.name += delta.function.name or ""
            call.arguments.append(delta.function.arguments or "")

    def _finish_reason(self) -> FinishReason:
        if self._refused:
            return FinishReason.CONTENT_FILTER
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        # A completion with a forced call ends with "stop".
        forced = self._calls and reason is FinishReason.STOP
        return FinishReason.TOOL_CALLS if forced else reason


def _usage(usage: Usage) -> TokenUsage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    hidden = usage.completion_tokens_details
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens or 0,
        cached_tokens=cached or 0,
        reasoning_tokens=(hidden.reasoning_tokens if hidden else None) or 0,
    )
