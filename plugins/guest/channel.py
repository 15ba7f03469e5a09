"""The service's end of the channel: a pair of descriptors on the event loop."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

_CHUNK = 65536


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
        if data:
            self._take(data)
        else:
            self._close_source()

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
