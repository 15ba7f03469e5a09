"""What a program wrote, as far as it is kept."""


class CappedOutput:
    """Keeps the start and the end of a stream, each up to half of `limit` bytes.

    The start tells what was run, the end how it came out. Where bytes are missing
    between them, one line says how many.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._head_room = limit - limit // 2
        self._tail_room = limit // 2

    def add(self, data: bytes) -> None:
        self.total += len(data)
        fits = self._head_room - len(self._head)
        self._head += data[:fits]
        self._tail += data[fits:]
        if len(self._tail) > 2 * self._tail_room:
            self._trim()

    @property
    def truncated(self) -> bool:
        return self.total > self._limit

    def value(self) -> bytes:
        if not self.truncated:
            return bytes(self._head + self._tail)
        self._trim()
        missing = self.total - len(self._head) - len(self._tail)
        return bytes(self._head) + b"\n[%d bytes left out]\n" % missing + bytes(self._tail)

    def _trim(self) -> None:
        del self._tail[: len(self._tail) - self._tail_room]
