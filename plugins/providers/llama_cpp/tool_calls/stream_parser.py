"""Splits a streamed completion into text and tool calls."""

from collections.abc import Iterable, Iterator

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.sampling.detokenizer import partial_match_length
from plugins.providers.llama_cpp.tool_calls.formats import CALL_MARKERS, parse_calls

ParsedPart = str | ToolCall
_MAX_END_MARKERS = 64
_LLAMA_FIRST_KEYS = ('"name"', '"type"', '"function"')


class ToolCallParser:
    """Emits text as soon as it can't become part of a call, and calls when complete.

    Only calls of known functions with an object of arguments count; everything else is
    text, as the model wrote it. Without `parallel` only the first call is emitted. `calls`
    is the number emitted.
    """

    def __init__(self, format_: ToolCallFormat, tools: Iterable[Tool], *, parallel: bool) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._parallel = parallel
        self._format, self._markers = format_, CALL_MARKERS[format_]
        self._buffer = ""
        self._in_call = False
        self._started = False
        self._after_call = False
        self._search_from = self._ends_tried = 0
        self.calls = 0

    def feed(self, text: str) -> list[ParsedPart]:
        """The parts that are certain after this text."""
        self._buffer += text
        return self._limit_calls(self._take_ready())

    def finish(self, *, truncated: bool = False) -> list[ParsedPart]:
        """The rest at the end of the completion; a call may lack its end marker.

        If the completion was `truncated`, an incomplete call is dropped.
        """
        rest, self._buffer = self._buffer, ""
        if not self._in_call:
            if self._after_call and self._markers.closing.startswith(rest.strip()):
                return []
            return [rest] if rest.strip() or (rest and not self.calls) else []
        parse = not (truncated and self._format is ToolCallFormat.QWEN_XML)
        calls = parse_calls(self._format, rest.lstrip(), self._tools) if parse else []
        return self._limit_calls(iter(calls or ([] if truncated else [rest])))

    def _take_ready(self) -> Iterator[ParsedPart]:
        while self._buffer:
            before = len(self._buffer)
            yield from self._call() if self._in_call else self._text()
            if len(self._buffer) == before:
                return

    def _text(self) -> Iterator[ParsedPart]:
        """Emit text up to a start marker; white space waits, as it is dropped before a call."""
        if self._after_call and self._skip_closing_marker():
            return
        at = self._find_start()
        if at >= 0:
            text = self._buffer[:at].rstrip()
            self._buffer = self._buffer[len(text) :]
            self._in_call, self._started = True, True
            self._search_from = self._ends_tried = 0
            if text:
                yield text
            yield from self._call()
            return
        keep = max(partial_match_length(self._buffer, start) for start in self._markers.starts)
        certain = self._buffer[: len(self._buffer) - keep].rstrip()
        if certain and not self._may_be_llama_call():
            self._started = True
            self._buffer = self._buffer[len(certain) :]
            yield certain

    def _skip_closing_marker(self) -> bool:
        """Drop the closing marker after a call; returns whether it may still follow."""
        closing, following = self._markers.closing, self._buffer.lstrip()
        if closing and following.startswith(closing):
            self._buffer = following.removeprefix(closing)
            self._after_call = False
        elif not closing.startswith(following):
            self._after_call = False
        return self._after_call

    def _find_start(self) -> int:
        """The index where a call may start, else -1."""
        places = [self._buffer.find(start) for start in self._markers.starts]
        at = min((place for place in places if place >= 0), default=-1)
        if at < 0 and self._format is ToolCallFormat.LLAMA and not self._started:
            return self._find_llama_start()
        return at

    def _may_be_llama_call(self) -> bool:
        """Whether the completion may still turn out to be a call without a marker."""
        if self._format is not ToolCallFormat.LLAMA or self._started:
            return False
        start = self._buffer.lstrip()
        return start.startswith("{") and any(
            key.startswith(start[1:].lstrip()) for key in _LLAMA_FIRST_KEYS
        )

    def _find_llama_start(self) -> int:
        start = self._buffer.lstrip()
        key = start[1:].lstrip()
        if start.startswith("{") and key.startswith(_LLAMA_FIRST_KEYS):
            return len(self._buffer) - len(start)
        return -1

    def _call(self) -> Iterator[ParsedPart]:
        """Emit the calls up to an end marker; it may also occur within their arguments.

        After _MAX_END_MARKERS without a call, the text is parsed once more by `finish`.
        """
        marker = self._markers.end
        while marker and self._ends_tried < _MAX_END_MARKERS:
            end = self._buffer.find(marker, self._search_from)
            if end < 0:
                self._search_from = max(0, len(self._buffer) - len(marker))
                return
            after = end + len(marker)
            calls = parse_calls(self._format, self._buffer[:after].lstrip(), self._tools)
            self._search_from, self._ends_tried = end + 1, self._ends_tried + 1
            if calls:
                self._buffer, self._in_call = self._buffer[after:], False
                self._after_call = True
                yield from calls
                return

    def _limit_calls(self, parts: Iterator[ParsedPart]) -> list[ParsedPart]:
        """Count the calls and drop those that are not allowed."""
        allowed: list[ParsedPart] = []
        for part in parts:
            if isinstance(part, ToolCall):
                if self.calls and not self._parallel:
                    continue
                self.calls += 1
            allowed.append(part)
        return allowed
