"""The frames on the channel, as the service makes and takes them.

What the guest sends may come from a program that took it over: bytes of a stranger.
Nothing of them is kept here beyond one frame of FRAME_BYTES.
"""

from collections.abc import Callable, Iterable, Iterator

from plugins.guest.agent import FRAME_BYTES, HEADER

END = b"Z"
_KINDS = frozenset({b"R", b"O", b"E", END})


def outgoing(job: Iterable[bytes], stdin: bytes) -> Iterator[bytes]:
    """What the agent is sent: the whole job and the input, a frame at a time."""
    for piece in job:
        yield from _frames(b"J", piece)
    yield HEADER.pack(b"J", 0)
    yield from _frames(b"I", stdin)
    yield HEADER.pack(b"I", 0)


def _frames(kind: bytes, data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), FRAME_BYTES):
        part = data[start : start + FRAME_BYTES]
        yield HEADER.pack(kind, len(part)) + part


class Incoming:
    """Fed with bytes as they come, hands each frame's kind and payload to `take`.

    `ended` after the last frame; `broken` once the bytes make no sense, or go on after it.
    """

    def __init__(self, take: Callable[[bytes, bytes], None]) -> None:
        self.ended = False
        self.broken = False
        self._take = take
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        if self.broken:
            return
        self._buffer += data
        at = 0
        while (end := self._frame_end(at)) is not None:
            kind, _ = HEADER.unpack_from(self._buffer, at)
            payload = bytes(self._buffer[at + HEADER.size : end])
            at = end
            if kind == END:
                self.ended = True
            else:
                self._take(kind, payload)
        del self._buffer[:at]
        self.broken |= self.ended and bool(self._buffer)
        if self.broken:
            self._buffer.clear()

    def _frame_end(self, at: int) -> int | None:
        """Where the frame that begins at `at` ends, if all of it is there and it can be one."""
        if self.broken or len(self._buffer) < at + HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self._buffer, at)
        right_length = length == 0 if kind == END else 0 < length <= FRAME_BYTES
        if self.ended or kind not in _KINDS or not right_length:
            self.broken = True
            return None
        end = at + HEADER.size + length
        return end if end <= len(self._buffer) else None
