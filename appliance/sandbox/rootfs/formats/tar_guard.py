"""An archive as the standard library reads it: within bounds, whatever its headers say.

`tarfile` takes a header at its word: it would hold what is said of a file in memory however
much that is, and takes time that grows with the square of it where records are laid out to
overlap. So nothing of that reaches it.
"""

import contextlib
import re
from collections.abc import Generator

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.compression import Stream
from appliance.sandbox.rootfs.formats.entries import Bounds

BLOCK = 512
# What says more of one file than this is no honest header.
_LARGEST_HEADER = 1024 * 1024
_TYPE_AT = 156
# Headers that are followed by what they say of the file whose header comes next; see pax(1).
_RECORDS, _LONG_NAMES = frozenset({b"x", b"g", b"X"}), frozenset({b"L", b"K"})
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")
_DIGITS = re.compile(rb"[0-9]+")
_MOST_DIGITS = 300


class CarefulStream:
    """What `tarfile` needs of a file. It goes forward only."""

    def __init__(self, stream: Stream, bounds: Bounds) -> None:
        self.at_end = False
        self._stream = stream
        self._bounds = bounds
        self._at = 0
        self._header_left: int | None = None
        self._before = b""

    @contextlib.contextmanager
    def header(self) -> Generator[None]:
        """While the next file is looked for. `at_end` says whether it was the end that came."""
        self._header_left, self._before = _LARGEST_HEADER, b""
        try:
            yield
        finally:
            self._header_left = None

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise _too_long()
        self._check(self._at + size)
        data = self._stream.read(size)
        self._at += len(data)
        # A single byte is read to see whether a file is as long as it says.
        if self._header_left is not None and size != 1:
            self._see(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._at:
            raise ValueError("its parts are not one after the other")
        self._check(position)
        while (missing := position - self._at) > 0:
            data = self._stream.read(min(missing, _LARGEST_HEADER))
            if not data:
                raise EOFError("it has no end")
            self._at += len(data)
        return position

    def tell(self) -> int:
        return self._at

    def finish(self) -> None:
        """Read to the last byte: only there is the checksum of what was packed."""
        while self.read(_LARGEST_HEADER):
            pass

    def _see(self, data: bytes) -> None:
        """Follow the headers of one file: a block, maybe what belongs to it, the next block."""
        self._header_left = (self._header_left or 0) - len(data)
        if self._header_left < 0:
            raise _too_long()
        self.at_end = data == bytes(BLOCK)
        if self._before in _RECORDS:
            _check_records(data)
            self._before = b""
        elif self._before in _LONG_NAMES:
            self._before = b""
        elif not self._before:
            # Behind any other header come no more of them.
            self._before = data[_TYPE_AT : _TYPE_AT + 1] or b"\0"

    def _check(self, position: int) -> None:
        if position > self._bounds.archive_size:
            raise self._bounds.too_large()


def _check_records(data: bytes) -> None:
    """Each is "LENGTH KEY=VALUE\\n", and its length counts all of it. Raises ValueError."""
    if any(len(digits[0]) > _MOST_DIGITS for digits in _DIGITS.finditer(data)):
        raise ValueError("a record in a header is no record")
    at = 0
    while at < len(data) and data[at]:
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if not length or b"=" not in data[length.end() : end] or data[end - 1 : end] != b"\n":
            raise ValueError("a record in a header is no record")
        at = end
    if data[at:].strip(b"\0"):
        raise ValueError("something follows the records of a header")


def _too_long() -> InvalidInput:
    return InvalidInput("the archive has a header of more than 1 MiB; nothing was added")
