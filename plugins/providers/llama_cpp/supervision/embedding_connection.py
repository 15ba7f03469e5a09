"""The server's end of the connection to an engine that makes vectors."""

import asyncio
import socket
from itertools import count
from typing import TypeVar

from appliance.errors import PayloadTooLarge, ProviderFailed
from plugins.providers.llama_cpp.protocol import embedding_messages, messages
from plugins.providers.llama_cpp.protocol.embedding_messages import (
    Counts,
    Embed,
    Failed,
    FromVectorEngine,
    Measure,
    ToVectorEngine,
    Vectors,
)
from plugins.providers.llama_cpp.protocol.messages import Broken, FrameError, Ready
from plugins.providers.llama_cpp.supervision.answer_stream import LinkError

_Reply = Counts | Vectors | Failed
ReplyT = TypeVar("ReplyT", Counts, Vectors)


class VectorLink:
    """A connection to a ready engine. Questions may be asked side by side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._open: dict[int, asyncio.Future[_Reply]] = {}
        self._numbers = count(1)
        self._last_heard = asyncio.get_running_loop().time()
        self.speed: float | None = None

    @classmethod
    async def over(cls, connection: socket.socket) -> "VectorLink":
        """A link over an accepted socket."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(reader, writer)

    @property
    def silence_s(self) -> float:
        """How long the engine has said nothing although something was asked of it."""
        now = asyncio.get_running_loop().time()
        return now - self._last_heard if self._open else 0.0

    async def configure(self, configure: messages.Configure) -> Ready | Broken:
        """Tell the engine what to load and wait for its word. Raises LinkError."""
        self._writer.write(messages.pack(configure))
        while not isinstance(message := await self._receive(), Ready | Broken):
            pass
        return message

    async def counts(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """The exact tokens of each text. Raises LinkError, PayloadTooLarge, ProviderFailed."""
        return (await self._ask(Measure(next(self._numbers), texts), Counts)).tokens

    async def vectors(self, texts: tuple[str, ...]) -> tuple[bytes, ...]:
        """Each text's vector as 32-bit floats; raises what `counts` raises."""
        return (await self._ask(Embed(next(self._numbers), texts), Vectors)).vectors

    async def read(self) -> None:
        """Hand out what the engine says until it goes away. Raises LinkError then."""
        while True:
            message = await self._receive()
            self._last_heard = asyncio.get_running_loop().time()
            if isinstance(message, Counts | Vectors | Failed):
                waiting = self._open.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    def fail(self, error: Exception) -> None:
        """End every open question with this error and close the connection."""
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(error)
        self._writer.close()

    async def _ask(self, question: ToVectorEngine, kind: type[ReplyT]) -> ReplyT:
        if self._writer.is_closing():
            raise LinkError("the engine is gone")
        try:
            frame = embedding_messages.pack(question)
        except FrameError as error:
            raise PayloadTooLarge(f"the texts are too large: {error}") from error
        loop = asyncio.get_running_loop()
        if not self._open:
            self._last_heard = loop.time()
        waiting = self._open[question.id] = loop.create_future()
        try:
            self._writer.write(frame)
            reply = await waiting
        finally:
            del self._open[question.id]
        if isinstance(reply, kind):
            return reply
        reason = reply.reason if isinstance(reply, Failed) else "an answer to something else"
        raise ProviderFailed(f"the engine could not compute these texts: {reason}")

    async def _receive(self) -> FromVectorEngine:
        try:
            header = await self._reader.readexactly(messages.HEADER_BYTES)
            body = await self._reader.readexactly(messages.body_length(header))
            return embedding_messages.from_engine(body)
        except (asyncio.IncompleteReadError, OSError, FrameError) as error:
            raise LinkError("the engine is gone") from error
