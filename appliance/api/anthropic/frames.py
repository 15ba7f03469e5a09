"""Streams a completion: message_start, content blocks, message_delta, message_stop."""

from collections.abc import Iterator
from typing import Any

import msgspec

from appliance.api.anthropic import answers
from appliance.api.anthropic.errors import error_body
from appliance.api.streaming.completion_stream import (
    AnyRequest,
    EventFrames,
    PendingCompletions,
    describe_stream_error,
)
from appliance.api.streaming.sse import NamedFrame
from appliance.domain.messages import CompletionEvent, Finished, TextDelta, ToolCall

PING = NamedFrame({"type": "ping"})


async def stream_frames(
    request: AnyRequest, pending: PendingCompletions, max_tokens: int
) -> EventFrames:
    """The frames of a message; a failure is the last of them."""
    blocks = _BlockFrames(max_tokens)
    try:
        (completion,) = await pending
        message = msgspec.to_builtins(answers.initial_message(completion.report))
        yield NamedFrame({"type": "message_start", "message": message})
        yield PING
        async for event in completion:
            for frame in blocks.frames(event):
                yield frame
        answers.require_finished(blocks.finished)
    except Exception as error:
        yield NamedFrame(error_body(request, describe_stream_error(request, error)))


class _BlockFrames:
    """Frames of the content blocks: numbers them, and closes each before the next one."""

    def __init__(self, max_tokens: int) -> None:
        self.finished: Finished | None = None
        self._max_tokens = max_tokens
        self._index = 0
        self._in_text = False

    def frames(self, event: CompletionEvent) -> Iterator[NamedFrame]:
        match event:
            case TextDelta():
                yield from self._text(event.text)
            case ToolCall():
                yield from self._tool(event)
            case Finished():
                yield from self._end(event)

    def _text(self, text: str) -> Iterator[NamedFrame]:
        if not text:
            return
        if not self._in_text:
            self._in_text = True
            yield self._start({"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def _tool(self, call: ToolCall) -> Iterator[NamedFrame]:
        block = answers.tool_use_block(call)
        yield from self._close_text()
        yield self._start({"type": "tool_use", "id": block.id, "name": block.name, "input": {}})
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments or "{}"})
        yield self._stop()

    def _end(self, finished: Finished) -> Iterator[NamedFrame]:
        self.finished = finished
        yield from self._close_text()
        reason, sequence = answers.map_stop_reason(finished, self._max_tokens)
        usage = msgspec.to_builtins(answers.usage_answer(finished.usage))
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        yield NamedFrame({"type": "message_delta", "delta": delta, "usage": usage})
        yield NamedFrame({"type": "message_stop"})

    def _close_text(self) -> Iterator[NamedFrame]:
        if self._in_text:
            self._in_text = False
            yield self._stop()

    def _start(self, block: dict[str, Any]) -> NamedFrame:
        return NamedFrame(
            {"type": "content_block_start", "index": self._index, "content_block": block}
        )

    def _delta(self, delta: dict[str, Any]) -> NamedFrame:
        return NamedFrame({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _stop(self) -> NamedFrame:
        stopped = NamedFrame({"type": "content_block_stop", "index": self._index})
        self._index += 1
        return stopped
