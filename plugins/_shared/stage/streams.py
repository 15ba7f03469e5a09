"""The program's standard streams: pipes on the event loop, and how much output is kept."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

_CHUNK = 65536


async def write_all(fd: int, data: bytes) -> None:
    """Write to a non-blocking pipe and leave it open. Raises OSError if its reader is gone."""
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            writable = asyncio.Event()
            loop.add_writer(fd, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(fd)


class PipeReader:
    """Owns the descriptor; passes each piece to `on_data`, and calls `on_end` when it is closed."""

    def __init__(
        self, fd: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self.ended = False
        self._fd = fd
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def set_paused(self, paused: bool) -> None:
        """Stop or go on reading; a pipe that nobody reads holds up its writer."""
        if self.ended:
            return
        if paused:
            self._loop.remove_reader(self._fd)
        else:
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._on_end()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._on_data(data)
        else:
            self.close()


class PipeWriter:
    """Owns the descriptor; writes all pieces, then closes it. A reader that is gone is no error.

    With `keep_open` only `close` closes it.
    """

    def __init__(self, fd: int, pieces: Iterable[bytes], *, keep_open: bool = False) -> None:
        self._fd = fd
        self._keep_open = keep_open
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = memoryview(b"")
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_writer(fd, self._write)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_writer(self._fd)
            os.close(self._fd)

    def _write(self) -> None:
        if not self._rest:
            try:
                piece = next(self._pieces, None)
            except OSError:  # a file that it comes from; the reader sees that it is cut off
                self.close()
                raise
            if piece is None:
                if self._keep_open:
                    self._loop.remove_writer(self._fd)
                else:
                    self.close()
                return
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.close()


class CappedOutput:
    """Keeps the start and the end of a stream, up to half of `limit` bytes each.

    The start shows what was run, the end how it ended. A line between them says how many bytes
    were dropped.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._max_head = limit - limit // 2
        self._max_tail = limit // 2

    def add(self, data: bytes) -> None:
        self.total += len(data)
        split = self._max_head - len(self._head)
        self._head += data[:split]
        self._tail += data[split:]
        if len(self._tail) > 2 * self._max_tail:
            self._trim()

    @property
    def truncated(self) -> bool:
        return self.total > self._limit

    def value(self) -> bytes:
        if not self.truncated:
            return bytes(self._head + self._tail)
        self._trim()
        dropped = self.total - len(self._head) - len(self._tail)
        return bytes(self._head) + b"\n[%d bytes left out]\n" % dropped + bytes(self._tail)

    def _trim(self) -> None:
        del self._tail[: len(self._tail) - self._max_tail]
