"""Frames to the server, sent without the decode loop waiting for the reader."""

import select
import socket

from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import FromEngine

# Reached only if the server reads nothing for long; then the loop waits.
_MAX_BUFFER_BYTES = 16 * 1024 * 1024


class Outbox:
    """Buffer of frames to the server. Only one thread may use it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def put(self, message: FromEngine) -> None:
        self._buffer += messages.encode_frame(message)

    def flush(self) -> None:
        """Send what the socket takes now; wait only if the buffer is too large. Raises OSError."""
        self._send()
        while len(self._buffer) > _MAX_BUFFER_BYTES:
            self._wait_and_send()

    def drain(self) -> None:
        """Send everything and wait for the reader. Raises OSError."""
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
