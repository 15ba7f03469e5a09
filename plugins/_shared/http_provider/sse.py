"""Incremental parser of server-sent events; chunks may be cut anywhere.

Follows the event stream format of the HTML standard: LF, CRLF and CR end a line, a
line that starts with a colon is a comment, several `data` lines are joined by LF.
"""

from collections.abc import Iterator

from msgspec import Struct

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerEvent(Struct, frozen=True):
    """One event; `kind` is its `event` field, "" without one."""

    kind: str
    data: bytes


class EventTooLong(Exception):
    """A line or an event exceeds the limit."""


class SseParser:
    """Bytes in, events out. An event that the end of the stream cuts off is dropped."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial_line: list[bytes] = []
        self._partial_line_bytes = 0
        self._after_cr = False
        self._started = False
        self._kind = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that this chunk completes. Raises EventTooLong."""
        *lines, last = self._normalize_line_ends(chunk).split(b"\n")
        if lines:
            lines[0] = b"".join((*self._partial_line, lines[0]))
            self._partial_line, self._partial_line_bytes = [], 0
            if not self._started:
                self._started, lines[0] = True, lines[0].removeprefix(_BYTE_ORDER_MARK)
        for line in lines:
            if line:
                self._parse_line(line)
            elif event := self._dispatch():
                yield event
        self._buffer_partial_line(last)

    def _normalize_line_ends(self, chunk: bytes) -> bytes:
        """The chunk with LF as the only line end; a CRLF may be split over two chunks."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" not in chunk:
            return chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _buffer_partial_line(self, piece: bytes) -> None:
        """Keep the start of a line whose end is still to come."""
        if piece:
            self._partial_line.append(piece)
            self._partial_line_bytes += len(piece)
            self._check_size(self._partial_line_bytes)

    def _parse_line(self, line: bytes) -> None:
        self._check_size(self._data_bytes + len(line))
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif field == b"event":
            self._kind = value.decode("utf-8", "replace")

    def _dispatch(self) -> ServerEvent | None:
        kind, data = self._kind, self._data
        self._kind, self._data, self._data_bytes = "", [], 0
        return ServerEvent(kind, b"\n".join(data)) if data else None

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise EventTooLong(f"an event is larger than {self._max_event_bytes} bytes")
