"""Encodes a completion's events as the chunks of a stream.

The constant part of the chunks is encoded once per stream.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from appliance.api.openai.answer_schemas import ToolCallDelta
from appliance.api.openai.answers import (
    AnswerHeader,
    chat_logprobs,
    finish_reason,
    function_answer,
    plain_logprobs,
    usage_answer,
)
from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    TextDelta,
    TokenUsage,
    ToolCall,
)

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class Chunks(Protocol):
    """Encoder of one stream; `index` is that of the choice."""

    def begin(self, index: int) -> bytes: ...

    def event(self, index: int, event: CompletionEvent) -> bytes: ...

    def usage(self, usage: TokenUsage) -> bytes: ...


class ChatChunks:
    """chat.completion.chunk objects; `legacy` clients read `function_call`."""

    def __init__(
        self, head: AnswerHeader, *, with_usage: bool, logprobs: bool, legacy: bool
    ) -> None:
        self._frame = _ChunkFrame(head, "chat.completion.chunk", with_usage=with_usage)
        self._logprobs = logprobs
        self._legacy = legacy
        self._calls: dict[int, int] = {}

    def begin(self, index: int) -> bytes:
        delta = b'{"role":"assistant","content":"","refusal":null}'
        return self._chunk(index, delta, b"null", b"null")

    def event(self, index: int, event: CompletionEvent) -> bytes:
        match event:
            case TextDelta():
                delta = b'{"content":%b}' % _encode(event.text)
                return self._chunk(index, delta, self._likelihoods(event), b"null")
            case ToolCall():
                return self._chunk(index, self._call(index, event), b"null", b"null")
            case Finished():
                reason = finish_reason(event.reason, legacy=self._legacy)
                return self._chunk(index, b"{}", b"null", _encode(reason))

    def usage(self, usage: TokenUsage) -> bytes:
        return self._frame.usage(usage)

    def _chunk(self, index: int, delta: bytes, logprobs: bytes, reason: bytes) -> bytes:
        return self._frame.choice(
            b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}'
            % (index, delta, logprobs, reason)
        )

    def _likelihoods(self, event: TextDelta) -> bytes:
        return _encode(chat_logprobs(event.likelihoods)) if self._logprobs else b"null"

    def _call(self, index: int, call: ToolCall) -> bytes:
        if self._legacy:
            return b'{"function_call":%b}' % _encode(function_answer(call))
        place = self._calls.get(index, 0)
        self._calls[index] = place + 1
        return b'{"tool_calls":[%b]}' % _encode(
            ToolCallDelta(place, call.id, function_answer(call))
        )


class PlainChunks:
    """text_completion objects; `echoes` are the prompts that precede each choice's text."""

    def __init__(
        self, head: AnswerHeader, echoes: Sequence[str], *, with_usage: bool, logprobs: bool
    ) -> None:
        self._frame = _ChunkFrame(head, "text_completion", with_usage=with_usage)
        self._echoes = echoes
        self._logprobs = logprobs
        self._offsets = [0] * len(echoes)

    def begin(self, index: int) -> bytes:
        echo = self._echoes[index]
        return self._chunk(index, echo, b"null", b"null") if echo else b""

    def event(self, index: int, event: CompletionEvent) -> bytes:
        match event:
            case TextDelta():
                return self._chunk(index, event.text, self._likelihoods(index, event), b"null")
            case Finished():
                return self._chunk(index, "", b"null", _encode(event.reason))
            case ToolCall():
                return b""  # plain completions have no tools

    def usage(self, usage: TokenUsage) -> bytes:
        return self._frame.usage(usage)

    def _chunk(self, index: int, text: str, logprobs: bytes, reason: bytes) -> bytes:
        return self._frame.choice(
            b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}'
            % (index, _encode(text), logprobs, reason)
        )

    def _likelihoods(self, index: int, event: TextDelta) -> bytes:
        if not self._logprobs:
            return b"null"
        logprobs = plain_logprobs(event.likelihoods, self._offsets[index])
        self._offsets[index] += sum(map(len, logprobs.tokens))
        return _encode(logprobs)


class _ChunkFrame:
    """The constant JSON around the choices of a chunk."""

    def __init__(self, head: AnswerHeader, kind: str, *, with_usage: bool) -> None:
        tier = b"" if head.tier is None else b'"service_tier":%b,' % _encode(head.tier)
        self._start = b'data: {"id":%b,"object":%b,"created":%d,"model":%b,%b' % (
            _encode(head.id), _encode(kind), head.created, _encode(head.model), tier,
        )  # fmt: skip
        self._start += b'"system_fingerprint":%b,"choices":[' % _encode(head.fingerprint)
        self._end = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def choice(self, choice: bytes) -> bytes:
        return self._start + choice + self._end

    def usage(self, usage: TokenUsage) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._start, _encode(usage_answer(usage)))
