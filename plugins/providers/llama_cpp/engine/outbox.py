"""The engine's mouth: frames leave without the decode loop waiting for the reader."""

import select
import socket

from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import FromEngine

# Only a server that reads nothing for long lets this fill up; then the loop waits.
_LIMIT_BYTES = 16 * 1024 * 1024


class Outbox:
    """Frames on their way to the server, sent by one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def put(self, message: FromEngine) -> None:
        self._buffer += messages.pack(message)

    def flush(self) -> None:
        """Send what the socket takes now; wait only if far too much is left. Raises OSError."""
        self._send()
        while len(self._buffer) > _LIMIT_BYTES:
            self._wait_and_send()

    def drain(self) -> None:
        """Send everything, waiting for the reader. Raises OSError."""
        self._send()
        while self._buffer:
            self._wait_and_send()

    def _wait_and_send(self) -> None:
        select.select([], [self._connection], [])
        self._send()

    def _send(self) -> None:
        while self._buffer:
            try:
                sent = self._connection.send(self._buffer, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            del self._buffer[:sent]
