"""The server's end of the channel: a pair of descriptors on the event loop."""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator

_CHUNK = 65536
# A guest whose data is expensive to handle, such as frames of single bytes, is read only a part
# of the time: after a read that took longer than this, reading pauses for a multiple of that.
_CHEAP_READ_S = 0.0005
_PAUSE_FACTOR = 9


class Channel:
    """Owns both descriptors: `source` to read from, `sink` to write to.

    They may be pipes, sockets or terminals, and must be two (`os.dup` a socket). Data is passed
    to `on_data`. Once no more can come, `ended` is true and `on_end` was called. That the other
    side stopped reading is no error.
    """

    def __init__(
        self, source: int, sink: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self.ended = False
        self._source = source
        self._sink = sink
        self._on_data = on_data
        self._on_end = on_end
        self._pieces: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self._sink_open = True
        self._paused = False
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self._loop.add_reader(source, self._read)

    def send(self, pieces: Iterable[bytes]) -> None:
        """Write all pieces, after those of an earlier call.

        Each is made once the one before is written.
        """
        self._pieces = itertools.chain(self._pieces, pieces)
        if self._sink_open:
            self._loop.add_writer(self._sink, self._write)

    def set_paused(self, paused: bool) -> None:
        """Stop or go on reading; a channel that nobody reads holds up the guest."""
        self._paused = paused
        if self.ended or self._pause is not None:
            return
        if paused:
            self._loop.remove_reader(self._source)
        else:
            self._loop.add_reader(self._source, self._read)

    def close(self) -> None:
        """Close both descriptors."""
        self._close_source()
        if self._sink_open:
            self._sink_open = False
            self._loop.remove_writer(self._sink)
            os.close(self._sink)

    def _close_source(self) -> None:
        if not self.ended:
            self.ended = True
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._source)
            os.close(self._source)
            self._on_end()

    def _read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # how sockets and terminals report that the other side is gone
            data = b""
        if not data:
            self._close_source()
            return
        start = time.thread_time()
        self._on_data(data)
        spent_s = time.thread_time() - start
        if spent_s > _CHEAP_READ_S and not self.ended:
            self._loop.remove_reader(self._source)
            self._pause = self._loop.call_later(spent_s * _PAUSE_FACTOR, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.set_paused(self._paused)

    def _write(self) -> None:
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                # Stays open: if both directions are one line, closing it would end both.
                self._loop.remove_writer(self._sink)
                return
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(self._sink, self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_writer(self._sink)
