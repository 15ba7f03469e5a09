"""The connection to an engine of an embedding model."""

import asyncio
from itertools import count
from typing import TypeVar

from appliance.errors import PayloadTooLarge, ProviderFailed
from plugins.providers.llama_cpp.protocol import embedding_messages
from plugins.providers.llama_cpp.protocol.embedding_messages import (
    CountTexts,
    EmbeddingFailed,
    EmbedTexts,
    FromEmbeddingEngine,
    TextCounts,
    ToEmbeddingEngine,
    Vectors,
)
from plugins.providers.llama_cpp.protocol.messages import FrameError
from plugins.providers.llama_cpp.supervision.engine_connection import EngineConnection

_Reply = TextCounts | Vectors | EmbeddingFailed
ReplyT = TypeVar("ReplyT", TextCounts, Vectors)


class EmbeddingConnection(EngineConnection[FromEmbeddingEngine]):
    """A connection to an engine that computes embeddings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._replies: dict[int, asyncio.Future[_Reply]] = {}
        self._ids = count(1)

    async def count_tokens(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """The number of tokens in each text.

        Raises EngineLostError, PayloadTooLarge or ProviderFailed.
        """
        return (await self._request(CountTexts(next(self._ids), texts), TextCounts)).tokens

    async def embed(self, texts: tuple[str, ...]) -> tuple[bytes, ...]:
        """Each text's vector as 32-bit floats. Raises as `count_tokens` does."""
        return (await self._request(EmbedTexts(next(self._ids), texts), Vectors)).vectors

    async def _request(self, request: ToEmbeddingEngine, kind: type[ReplyT]) -> ReplyT:
        try:
            self._write(request)
        except FrameError as error:
            raise PayloadTooLarge(f"the texts are too large: {error}") from error
        future = self._replies[request.id] = asyncio.get_running_loop().create_future()
        try:
            reply = await future
        finally:
            del self._replies[request.id]
        if isinstance(reply, kind):
            return reply
        reason = reply.reason if isinstance(reply, EmbeddingFailed) else "unexpected reply"
        raise ProviderFailed(f"the engine could not process the texts: {reason}")

    def _decode(self, body: bytes) -> FromEmbeddingEngine:
        return embedding_messages.decode_from_engine(body)

    def _dispatch(self, message: FromEmbeddingEngine) -> None:
        if isinstance(message, TextCounts | Vectors | EmbeddingFailed):
            future = self._replies.get(message.id)
            if future is not None and not future.done():
                future.set_result(message)

    def _has_open_requests(self) -> bool:
        return bool(self._replies)

    def _fail_requests(self, error: Exception) -> None:
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)
