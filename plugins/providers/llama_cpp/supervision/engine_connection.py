"""The server's end of the socket to an engine: frames, configuration, silence."""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

from msgspec import Struct

from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import Configure, LoadFailed, Ready
from plugins.providers.llama_cpp.supervision.engine_types import EngineLostError

MessageT = TypeVar("MessageT")


class EngineConnection(ABC, Generic[MessageT]):
    """A connection to one engine process. Many requests may be open at once.

    `decode_speed` is the latest decode speed in tokens per second, measured with one
    sequence alone; None if unknown.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._last_message_at = asyncio.get_running_loop().time()
        self.decode_speed: float | None = None

    @classmethod
    async def open(cls, connection: socket.socket) -> Self:
        """A connection over an accepted socket."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(reader, writer)

    @property
    def silence_s(self) -> float:
        """Seconds since the engine's last message; 0 while no request is open."""
        now = asyncio.get_running_loop().time()
        return now - self._last_message_at if self._has_open_requests() else 0.0

    async def configure(self, configure: Configure) -> Ready | LoadFailed:
        """Tell the engine what to load and wait until it has. Raises EngineLostError."""
        self._write(configure)
        while not isinstance(message := await self._receive(), Ready | LoadFailed):
            pass
        return message

    async def read(self) -> None:
        """Dispatch messages until the engine goes away. Raises EngineLostError then."""
        while True:
            message = await self._receive()
            self._last_message_at = asyncio.get_running_loop().time()
            self._dispatch(message)

    def fail(self, error: Exception) -> None:
        """End every open request with this error and close the connection."""
        self._fail_requests(error)
        self._writer.close()

    @abstractmethod
    def _decode(self, body: bytes) -> MessageT:
        """Raises FrameError."""

    @abstractmethod
    def _dispatch(self, message: MessageT) -> None:
        """Hand a message to the request that it belongs to."""

    @abstractmethod
    def _has_open_requests(self) -> bool: ...

    @abstractmethod
    def _fail_requests(self, error: Exception) -> None: ...

    def _write(self, message: Struct) -> None:
        """Raises FrameError for a message that can't be sent, or EngineLostError.

        Restarts the measurement of silence if no request is open.
        """
        frame = messages.encode_frame(message)
        if self._writer.is_closing():
            raise EngineLostError("the engine has ended")
        if not self._has_open_requests():
            self._last_message_at = asyncio.get_running_loop().time()
        self._writer.write(frame)

    async def _receive(self) -> MessageT:
        try:
            header = await self._reader.readexactly(messages.HEADER_BYTES)
            body = await self._reader.readexactly(messages.decode_body_length(header))
            return self._decode(body)
        except (asyncio.IncompleteReadError, OSError, messages.FrameError) as error:
            raise EngineLostError("the engine has ended") from error
