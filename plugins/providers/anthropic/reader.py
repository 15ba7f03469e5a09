"""Reads a streamed answer of Anthropic's Messages API."""

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
from plugins._shared.http_provider.client import decoded
from plugins._shared.http_provider.error_body import Said
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


class Reader:
    """Text as it comes; a tool call when its block is whole. Thinking is no part of the answer."""

    def __init__(self, name: str, explain: Callable[[object], Said]) -> None:
        self.done = False
        self._name = name
        self._explain = explain
        self._blocks: dict[int, tuple[Block, list[str]]] = {}
        self._usage: dict[str, int] = {}
        self._reason: str | None = None
        self._stop = ""

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """What the event adds to the answer."""
        found = decoded(self._name, event.data, Event)
        match found.type:
            case "message_start" if found.message is not None:
                self._count(found.message.usage)
            case "content_block_start" if found.content_block is not None:
                return self._begin(found.index, found.content_block)
            case "content_block_delta":
                return self._go_on(found)
            case "content_block_stop":
                return self._complete(found.index)
            case "message_delta":
                self._count(found.usage)
                if found.delta is not None:
                    self._reason = found.delta.stop_reason or self._reason
                    self._stop = found.delta.stop_sequence or ""
            case "message_stop":
                self.done = True
            case "error":
                raise failures.in_stream(self._name, self._explain(msgspec.json.decode(event.data)))
            case _:
                pass  # ping, and what may be added to the API
        return ()

    def end(self) -> Iterable[CompletionEvent]:
        """Finished, once the message is whole."""
        if self._reason is None or "output_tokens" not in self._usage:
            raise failures.broken(self._name, "the answer ended before it was complete")
        reason = _REASONS.get(self._reason, FinishReason.STOP)
        yield Finished(reason, self._total(), self._stop)

    def _begin(self, index: int, block: Block) -> Iterable[CompletionEvent]:
        self._blocks[index] = (block, [])
        return (TextDelta(block.text),) if block.type == "text" and block.text else ()

    def _go_on(self, found: Event) -> Iterable[CompletionEvent]:
        delta = found.delta
        if delta is None:
            return ()
        if delta.type == "input_json_delta" and found.index in self._blocks:
            self._blocks[found.index][1].append(delta.partial_json or "")
        return (TextDelta(delta.text),) if delta.type == "text_delta" and delta.text else ()

    def _complete(self, index: int) -> Iterable[CompletionEvent]:
        block, pieces = self._blocks.pop(index, (Block(), []))
        if block.type != "tool_use":
            return ()
        # Without a single piece, the block's start holds the whole input.
        arguments = "".join(pieces) or msgspec.json.encode(block.input or {}).decode()
        return (ToolCall(block.id, block.name, arguments),)

    def _count(self, usage: Usage | None) -> None:
        """The counts of a message_delta are totals, and may leave out what has not changed."""
        if usage is not None:
            found = msgspec.to_builtins(usage)
            self._usage |= {key: count for key, count in found.items() if count is not None}

    def _total(self) -> TokenUsage:
        read = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        prompt = self._usage.get("input_tokens", 0) + written + read
        return TokenUsage(prompt, self._usage["output_tokens"], read)
