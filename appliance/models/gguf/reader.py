"""The bytes of a GGUF header: every read is held against the file's real size."""

import os
import struct
from typing import Any, BinaryIO

from appliance.errors import InvalidInput

MAX_KEPT_TEXT = 1 << 16
_MAX_KEPT = 16 << 20


class HeaderBytes:
    """One pass over a file, which errors call `name`. `at` is how far it is, in bytes."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self._room = _MAX_KEPT

    def kept_text(self) -> str:
        """A text with its length before it; a very long one is skipped."""
        length = self.number("Q")
        if length <= MAX_KEPT_TEXT:
            return self.kept(length).decode(errors="replace")
        self.skip(length)
        return ""

    def text(self, limit: int) -> str:
        """A text of at most so many bytes."""
        length = self.number("Q")
        if length > limit:
            raise self.bad(f"a name of {length} bytes")
        return self.kept(length).decode(errors="replace")

    def kept(self, count: int) -> bytes:
        """Bytes that are held in memory; they are bounded in all."""
        self._room -= count
        if self._room < 0:
            raise self.bad(f"more than {_MAX_KEPT} bytes of metadata")
        return self.take(count)

    def number(self, code: str) -> Any:
        """One number, in the letters of `struct`."""
        kind = "<" + code
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def take(self, count: int) -> bytes:
        """So many bytes. Raises InvalidInput where the file ends before."""
        self.need(count)
        self.at += count
        content = self._file.read(count)
        if len(content) < count:
            raise self.bad("it shrank while it was read")
        return content

    def skip(self, count: int) -> None:
        """Go on behind so many bytes."""
        self.need(count)
        self.at += count
        self._file.seek(self.at)

    def need(self, count: int) -> None:
        """Raises InvalidInput unless so many bytes are left."""
        if count > self.size - self.at:
            raise self.bad(
                f"truncated: its header needs {self.at + count} bytes, "
                f"the file has {self.size}; get it again"
            )

    def bad(self, reason: str) -> InvalidInput:
        """The error that says this of the file."""
        return InvalidInput(f"{self._name}: {reason}")
