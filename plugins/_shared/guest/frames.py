"""The frames on the channel, as the server encodes and decodes them.

A program that took over the guest can send anything: the frames are untrusted bytes. No more
than one incomplete frame of FRAME_BYTES is kept.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from plugins._shared.guest.agent import FRAME_BYTES, FRAME_HEADER

_END = b"Z"
_KINDS = frozenset({b"R", b"O", b"E"})


END_OF_JOB = FRAME_HEADER.pack(b"J", 0)


def encode_run_input(
    job: Iterable[bytes], stdin: bytes, *, close_job: bool = True
) -> Iterator[bytes]:
    """What the agent is sent, a frame at a time: the whole job, then the program's input."""
    for piece in job:
        yield from _encode(b"J", piece)
    if close_job:
        yield END_OF_JOB
    yield from _encode(b"I", stdin)
    yield FRAME_HEADER.pack(b"I", 0)


def _encode(kind: bytes, data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), FRAME_BYTES):
        payload = data[start : start + FRAME_BYTES]
        yield FRAME_HEADER.pack(kind, len(payload)) + payload


class FrameDecoder:
    """Fed with bytes as they arrive; passes each payload with its kind to `on_frame`.

    Consecutive payloads of one kind are joined, since each call costs, however small it is.
    `ended` is set after the last frame, `malformed` by bytes that are no frame or follow it.
    """

    def __init__(self, on_frame: Callable[[bytes, bytes], None]) -> None:
        self.ended = False
        self.malformed = False
        self._on_frame = on_frame
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        if self.malformed:
            return
        self._buffer += data
        for kind, frames in itertools.groupby(self._complete_frames(), key=itemgetter(0)):
            self._on_frame(kind, b"".join(payload for _, payload in frames))
        self.malformed |= self.ended and bool(self._buffer)
        if self.malformed:
            self._buffer.clear()

    def _complete_frames(self) -> list[tuple[bytes, bytes]]:
        """Take all complete frames from the buffer, as kind and payload."""
        frames: list[tuple[bytes, bytes]] = []
        at = 0
        while not (self.ended or self.malformed) and len(self._buffer) >= at + FRAME_HEADER.size:
            kind, length = FRAME_HEADER.unpack_from(self._buffer, at)
            start, end = at + FRAME_HEADER.size, at + FRAME_HEADER.size + length
            if kind == _END and not length:
                self.ended = True
            elif kind not in _KINDS or not 0 < length <= FRAME_BYTES:
                self.malformed = True
            elif end > len(self._buffer):
                break
            else:
                frames.append((kind, bytes(self._buffer[start:end])))
            at = end
        del self._buffer[:at]
        return frames
