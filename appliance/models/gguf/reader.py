"""Bounded reads of a GGUF header: every length is checked against the size of the file."""

import os
import struct
from typing import Any, BinaryIO

from appliance.errors import InvalidInput

MAX_TEXT_BYTES = 1 << 16
_MAX_KEPT_BYTES = 16 << 20


class HeaderReader:
    """Reads a file once, from the start; `position` is in bytes. Errors name it `name`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self._kept_budget = _MAX_KEPT_BYTES

    def read_text(self) -> str:
        """A length-prefixed text; "" for one longer than MAX_TEXT_BYTES, which is skipped."""
        length = self.read_number("Q")
        if length <= MAX_TEXT_BYTES:
            return self.read_kept(length).decode(errors="replace")
        self.skip(length)
        return ""

    def read_name(self, limit: int) -> str:
        """A length-prefixed text of at most `limit` bytes. Raises InvalidInput for a longer one."""
        length = self.read_number("Q")
        if length > limit:
            raise self.error(f"a name has {length} bytes (at most {limit})")
        return self.read_kept(length).decode(errors="replace")

    def read_kept(self, count: int) -> bytes:
        """Bytes that stay in memory; their total is at most _MAX_KEPT_BYTES."""
        self._kept_budget -= count
        if self._kept_budget < 0:
            raise self.error(f"the metadata has more than {_MAX_KEPT_BYTES} bytes")
        return self.read(count)

    def read_number(self, code: str) -> Any:
        """One little-endian number; `code` is a format character of `struct`."""
        layout = "<" + code
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Raises InvalidInput if the file ends before."""
        self.require(count)
        self.position += count
        content = self._file.read(count)
        if len(content) < count:
            raise self.error("the file shrank while it was read")
        return content

    def skip(self, count: int) -> None:
        """Skip `count` bytes. Raises InvalidInput if the file ends before."""
        self.require(count)
        self.position += count
        self._file.seek(self.position)

    def require(self, count: int) -> None:
        """Raises InvalidInput unless `count` bytes remain."""
        if count > self.size - self.position:
            raise self.error(
                f"truncated: the header needs {self.position + count} bytes, the file has "
                f"{self.size}; download it again"
            )

    def error(self, reason: str) -> InvalidInput:
        """An InvalidInput about this file."""
        return InvalidInput(f"{self._name}: {reason}")
