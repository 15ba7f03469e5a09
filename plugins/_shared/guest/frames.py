"""The frames on the channel, as the service makes and takes them.

What the guest sends may come from a program that took it over: bytes of a stranger.
Nothing of them is kept here beyond one frame of FRAME_BYTES.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from plugins._shared.guest.agent import FRAME_BYTES, HEADER

END = b"Z"
_KINDS = frozenset({b"R", b"O", b"E"})


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
    """Fed with bytes as they come, hands payloads with their kind to `take`.

    Those of one kind that came together are one by then: each costs, however small it is.
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
        for kind, frames in itertools.groupby(self._whole(), key=itemgetter(0)):
            self._take(kind, b"".join(payload for _, payload in frames))
        self.broken |= self.ended and bool(self._buffer)
        if self.broken:
            self._buffer.clear()

    def _whole(self) -> list[tuple[bytes, bytes]]:
        """Kind and payload of all frames that are whole; they are taken away."""
        found: list[tuple[bytes, bytes]] = []
        at = 0
        while not (self.ended or self.broken) and len(self._buffer) >= at + HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer, at)
            start, end = at + HEADER.size, at + HEADER.size + length
            if kind == END and not length:
                self.ended = True
            elif kind not in _KINDS or not 0 < length <= FRAME_BYTES:
                self.broken = True
            elif end > len(self._buffer):
                break
            else:
                found.append((kind, bytes(self._buffer[start:end])))
            at = end
        del self._buffer[:at]
        return found
