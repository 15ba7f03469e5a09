"""Reads a streamed answer of OpenAI's API."""

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
from plugins._shared.http_provider.client import decoded
from plugins._shared.http_provider.error_body import Said
from plugins._shared.http_provider.sse import ServerEvent
from plugins.providers.openai.logprobs import likelihoods
from plugins.providers.openai.wire import CallPiece, Choice, Chunk, Usage

_LAST = b"[DONE]"
_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class _Call:
    """A tool call whose arguments come in pieces."""

    def __init__(self, index: int | None, id_: str) -> None:
        self.index = index
        self.id = id_
        self.name = ""
        self.arguments: list[str] = []

    def whole(self) -> ToolCall:
        id_ = self.id or f"call_{secrets.token_hex(12)}"
        return ToolCall(id_, self.name, "".join(self.arguments) or "{}")


class Reader:
    """Chats and raw completions alike; tool calls are told whole, before Finished."""

    def __init__(self, name: str, explain: Callable[[object], Said]) -> None:
        self.done = False
        self._name = name
        self._explain = explain
        self._calls: list[_Call] = []
        self._pending: tuple[TokenLikelihood, ...] = ()
        self._reason: str | None = None
        self._stop = ""
        self._refused = False
        self._usage: Usage | None = None

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """Text as it comes."""
        if event.data.strip() == _LAST:
            self.done = True
            return ()
        chunk = decoded(self._name, event.data, Chunk)
        if chunk.error or chunk.object == "error" or event.kind == "error":
            raise failures.in_stream(self._name, self._explain(msgspec.json.decode(event.data)))
        self._usage = chunk.usage or self._usage
        return [told for choice in chunk.choices or () for told in self._told(choice)]

    def end(self) -> Iterable[CompletionEvent]:
        """The tool calls, then Finished."""
        if self._reason is None:
            raise failures.broken(self._name, "the answer ended before it was complete")
        if self._usage is None:
            raise failures.failed(
                self._name, "it told no usage; it has to support stream_options.include_usage"
            )
        if self._pending:
            yield TextDelta("", self._pending)
        yield from (call.whole() for call in self._calls)
        yield Finished(self._finish(), _usage(self._usage), self._stop)

    def _told(self, choice: Choice) -> Iterator[CompletionEvent]:
        if choice.index:
            return
        if choice.logprobs is not None:
            self._pending += likelihoods(choice.logprobs)
        text = choice.text or ""
        if choice.delta is not None:
            text += (choice.delta.content or "") + (choice.delta.refusal or "")
            self._refused = self._refused or bool(choice.delta.refusal)
            for piece in choice.delta.tool_calls or ():
                self._collect(piece)
        if choice.finish_reason:
            self._reason = choice.finish_reason
            self._stop = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
        if text:
            told, self._pending = self._pending, ()
            yield TextDelta(text, told)

    def _collect(self, piece: CallPiece) -> None:
        call = self._calls[-1] if self._calls else None
        same = [known for known in self._calls if known.index == piece.index]
        if piece.index is not None:
            call = same[-1] if same else None
        # Some servers number every call 0: then only its id tells a new one.
        if call is None or (piece.id and call.id and piece.id != call.id):
            call = _Call(piece.index, piece.id or "")
            self._calls.append(call)
        call.id = call.id or piece.id or ""
        if piece.function is not None:
            call.name += piece.function.name or ""
            call.arguments.append(piece.function.arguments or "")

    def _finish(self) -> FinishReason:
        if self._refused:
            return FinishReason.CONTENT_FILTER
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        # A call that was forced ends with "stop".
        forced = self._calls and reason is FinishReason.STOP
        return FinishReason.TOOL_CALLS if forced else reason


def _usage(usage: Usage) -> TokenUsage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    return TokenUsage(usage.prompt_tokens, usage.completion_tokens or 0, cached or 0)
