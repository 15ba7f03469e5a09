"""Server-sent events, read as they come: borders of chunks may lie anywhere.

Follows the event stream format of the HTML standard: LF, CRLF and CR end a line, a
line that begins with a colon is a comment, several `data` lines are one text.
"""

from collections.abc import Iterator

from msgspec import Struct

MAX_EVENT_BYTES = 8 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerEvent(Struct, frozen=True):
    """One event; `kind` is "" where the stream names none."""

    kind: str
    data: bytes


class EventTooLong(Exception):
    """A line or an event beyond the bound."""


class SseParser:
    """Bytes in, events out. An event that the stream's end cuts off is none."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._bound = max_event_bytes
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._after_cr = False
        self._begun = False
        self._kind = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that this chunk completes. Raises EventTooLong."""
        *lines, rest = self._with_plain_ends(chunk).split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._rest_bytes = [], 0
            if not self._begun:
                self._begun, lines[0] = True, lines[0].removeprefix(_BYTE_ORDER_MARK)
        for line in lines:
            if line:
                self._take(line)
            elif event := self._dispatch():
                yield event
        self._keep(rest)

    def _with_plain_ends(self, chunk: bytes) -> bytes:
        """The chunk with LF alone as line end; a CRLF may be cut in two."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" not in chunk:
            return chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, piece: bytes) -> None:
        """The beginning of a line whose end is still to come."""
        if piece:
            self._rest.append(piece)
            self._rest_bytes += len(piece)
            self._check(self._rest_bytes)

    def _take(self, line: bytes) -> None:
        self._check(self._data_bytes + len(line))
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

    def _check(self, size: int) -> None:
        if size > self._bound:
            raise EventTooLong(f"an event of more than {self._bound} bytes")
