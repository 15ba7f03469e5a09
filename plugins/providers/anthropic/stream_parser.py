"""Parses a streamed completion of Anthropic's Messages API."""

from collections.abc import Callable, Iterable

import msgspec

from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    FinishReason,
    TextDelta,
    TokenUsage,
    ToolCall,
)
from plugins._shared.http_provider import failures
from plugins._shared.http_provider.client import decode_json
from plugins._shared.http_provider.error_body import ProviderErrorBody
from plugins._shared.http_provider.sse import ServerEvent
from plugins.providers.anthropic.wire import Block, Event, Usage

_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


class AnthropicStreamParser:
    """Emits text as it comes and a tool call when its block is complete; drops thinking."""

    def __init__(self, name: str, parse_error: Callable[[object], ProviderErrorBody]) -> None:
        self.done = False
        self._name = name
        self._parse_error = parse_error
        self._blocks: dict[int, tuple[Block, list[str]]] = {}
        self._usage: dict[str, int] = {}
        self._reason: str | None = None
        self._stop = ""

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """The events in this one."""
        parsed = decode_json(self._name, event.data, Event)
        match parsed.type:
            case "message_start" if parsed.message is not None:
                self._update_usage(parsed.message.usage)
            case "content_block_start" if parsed.content_block is not None:
                return self._start_block(parsed.index, parsed.content_block)
            case "content_block_delta":
                return self._append_delta(parsed)
            case "content_block_stop":
                return self._finish_block(parsed.index)
            case "message_delta":
                self._update_usage(parsed.usage)
                if parsed.delta is not None:
                    self._reason = parsed.delta.stop_reason or self._reason
                    self._stop = parsed.delta.stop_sequence or ""
            case "message_stop":
                self.done = True
            case "error":
                raise failures.from_stream_error(
                    self._name, self._parse_error(msgspec.json.decode(event.data))
                )
            case _:
                pass  # ping, and event types added to the API later
        return ()

    def finish(self) -> Iterable[CompletionEvent]:
        """Finished, if the message is complete."""
        if self._reason is None or "output_tokens" not in self._usage:
            raise failures.retryable_failure(
                self._name, "the stream ended before the completion was complete"
            )
        reason = _REASONS.get(self._reason, FinishReason.STOP)
        yield Finished(reason, self._token_usage(), self._stop)

    def _start_block(self, index: int, block: Block) -> Iterable[CompletionEvent]:
        self._blocks[index] = (block, [])
        return (TextDelta(block.text),) if block.type == "text" and block.text else ()

    def _append_delta(self, parsed: Event) -> Iterable[CompletionEvent]:
        delta = parsed.delta
        if delta is None:
            return ()
        if delta.type == "input_json_delta" and parsed.index in self._blocks:
            self._blocks[parsed.index][1].append(delta.partial_json or "")
        return (TextDelta(delta.text),) if delta.type == "text_delta" and delta.text else ()

    def _finish_block(self, index: int) -> Iterable[CompletionEvent]:
        block, pieces = self._blocks.pop(index, (Block(), []))
        if block.type != "tool_use":
            return ()
        # Without any delta, the start of the block holds the whole input.
        arguments = "".join(pieces) or msgspec.json.encode(block.input or {}).decode()
        return (ToolCall(block.id, block.name, arguments),)

    def _update_usage(self, usage: Usage | None) -> None:
        """A message_delta holds totals and may omit those that have not changed."""
        if usage is not None:
            counts = msgspec.to_builtins(usage)
            self._usage |= {key: count for key, count in counts.items() if count is not None}

    def _token_usage(self) -> TokenUsage:
        read = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        prompt = self._usage.get("input_tokens", 0) + written + read
        return TokenUsage(prompt, self._usage["output_tokens"], read)
