"""The service's end of the channel: a pair of descriptors on the event loop."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator

_CHUNK = 65536
# Whoever speaks in a way that is much work to hear, as in single bytes, is heard a part of the
# time only: there are others.
_QUICK_S = 0.0005
_RESTS = 9


class Channel:
    """Owns both descriptors: `source` to read from, `sink` to write to.

    They may be pipes, sockets or terminals, and must be two (`os.dup` a socket). What comes
    goes to `take`, as fast as it comes. `ended` is true, and `at_end` was called, once
    nothing more can come. That the other side does not read any more is no error.
    """

    def __init__(
        self, source: int, sink: int, take: Callable[[bytes], None], at_end: Callable[[], None]
    ) -> None:
        self.ended = False
        self._source = source
        self._sink = sink
        self._take = take
        self._at_end = at_end
        self._pieces: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self._sink_open = True
        self._resting: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self._loop.add_reader(source, self._read)

    def send(self, pieces: Iterable[bytes]) -> None:
        """Write all of them, each made when the one before is through. Only once."""
        self._pieces = iter(pieces)
        if self._sink_open:
            self._loop.add_writer(self._sink, self._write)

    def close(self) -> None:
        """Let go of both descriptors."""
        self._close_source()
        if self._sink_open:
            self._sink_open = False
            self._loop.remove_writer(self._sink)
            os.close(self._sink)

    def _close_source(self) -> None:
        if not self.ended:
            self.ended = True
            if self._resting is not None:
                self._resting.cancel()
            self._loop.remove_reader(self._source)
            os.close(self._source)
            self._at_end()

    def _read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a socket's or terminal's way to say that the other side is gone
            data = b""
        if not data:
            self._close_source()
            return
        began = time.thread_time()
        self._take(data)
        spent = time.thread_time() - began
        if spent > _QUICK_S and not self.ended:
            self._loop.remove_reader(self._source)
            self._resting = self._loop.call_later(spent * _RESTS, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._source, self._read)

    def _write(self) -> None:
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                # Left open: where both ways are one line, its end would end the other way too.
                self._loop.remove_writer(self._sink)
                return
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(self._sink, self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_writer(self._sink)
