"""Guards `tarfile` against hostile headers.

`tarfile` trusts headers: it would keep header data of any size in memory, and takes quadratic
time for records that overlap. The stream below refuses such headers before `tarfile` sees them.
"""

import contextlib
import re
from collections.abc import Generator

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.compression import ByteStream
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits

BLOCK = 512
# No legitimate header of one file is larger.
_MAX_HEADER_BYTES = 1024 * 1024
_TYPE_AT = 156
# Types of extended headers, which precede the header of the file they describe; see pax(1).
_RECORDS, _LONG_NAMES = frozenset({b"x", b"g", b"X"}), frozenset({b"L", b"K"})
_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")
_DIGITS = re.compile(rb"[0-9]+")
_MAX_DIGITS = 300


class GuardedStream:
    """The file interface that `tarfile` needs; reads forward only."""

    def __init__(self, stream: ByteStream, limits: ArchiveLimits) -> None:
        self.at_end = False
        self._stream = stream
        self._limits = limits
        self._at = 0
        self._header_bytes_left: int | None = None
        self._previous_type = b""

    @contextlib.contextmanager
    def header(self) -> Generator[None]:
        """Context in which `tarfile` reads the next header; `at_end` is set at the end."""
        self._header_bytes_left, self._previous_type = _MAX_HEADER_BYTES, b""
        try:
            yield
        finally:
            self._header_bytes_left = None

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise _header_too_long_error()
        self._check_position(self._at + size)
        data = self._stream.read(size)
        self._at += len(data)
        # tarfile reads a single byte to check that a file is not truncated.
        if self._header_bytes_left is not None and size != 1:
            self._track_headers(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        if whence != 0 or position < self._at:
            raise ValueError("its members are not in sequence")
        self._check_position(position)
        while (missing := position - self._at) > 0:
            data = self._stream.read(min(missing, _MAX_HEADER_BYTES))
            if not data:
                raise EOFError("unexpected end of file")
            self._at += len(data)
        return position

    def tell(self) -> int:
        return self._at

    def finish(self) -> None:
        """Read to the end, where the checksum of compressed data is verified."""
        while self.read(_MAX_HEADER_BYTES):
            pass

    def _track_headers(self, data: bytes) -> None:
        """Track the headers of one file: a block, its data if it is extended, the next block."""
        self._header_bytes_left = (self._header_bytes_left or 0) - len(data)
        if self._header_bytes_left < 0:
            raise _header_too_long_error()
        self.at_end = data == bytes(BLOCK)
        if self._previous_type in _RECORDS:
            _check_records(data)
            self._previous_type = b""
        elif self._previous_type in _LONG_NAMES:
            self._previous_type = b""
        elif not self._previous_type:
            # After any other type there are no further headers of this file.
            self._previous_type = data[_TYPE_AT : _TYPE_AT + 1] or b"\0"

    def _check_position(self, position: int) -> None:
        if position > self._limits.archive_size:
            raise self._limits.too_large_error()


def _check_records(data: bytes) -> None:
    """Each is "LENGTH KEY=VALUE\\n", and its length counts all of it. Raises ValueError."""
    if any(len(digits[0]) > _MAX_DIGITS for digits in _DIGITS.finditer(data)):
        raise ValueError("an extended header has a malformed record")
    at = 0
    while at < len(data) and data[at]:
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if not length or b"=" not in data[length.end() : end] or data[end - 1 : end] != b"\n":
            raise ValueError("an extended header has a malformed record")
        at = end
    if data[at:].strip(b"\0"):
        raise ValueError("an extended header has data after its records")


def _header_too_long_error() -> InvalidInput:
    return InvalidInput("the archive has a header larger than 1 MiB; nothing was added")
