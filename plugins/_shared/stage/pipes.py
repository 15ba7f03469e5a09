"""Non-blocking pipes on the event loop."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

_CHUNK = 65536


async def write_all(fd: int, data: bytes) -> None:
    """Write to a non-blocking pipe and leave it open. Raises OSError if nobody reads it."""
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            room = asyncio.Event()
            loop.add_writer(fd, room.set)
            try:
                await room.wait()
            finally:
                loop.remove_writer(fd)


class PipeReader:
    """Hands each piece that comes through to `take` until the other side is closed."""

    def __init__(self, fd: int, take: Callable[[bytes], None], at_end: Callable[[], None]) -> None:
        self.ended = False
        self._fd = fd
        self._take = take
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._at_end()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._take(data)
        else:
            self.close()


class PipeWriter:
    """Writes all pieces, then closes; a reader that went away ends it early."""

    def __init__(self, fd: int, pieces: Iterable[bytes]) -> None:
        self._fd = fd
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
            piece = next(self._pieces, None)
            if piece is None:
                self.close()
                return
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.close()
