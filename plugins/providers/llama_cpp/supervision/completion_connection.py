"""The connection to an engine of a text model, and the completion streams over it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count

from appliance.domain.messages import CompletionRequest
from appliance.errors import InvalidInput, PayloadTooLarge
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import (
    Cancel,
    Cancelled,
    CountTokens,
    Done,
    FromEngine,
    LoadFailed,
    Progress,
    Ready,
    Refused,
    Submit,
    Text,
    ToolCallNotice,
)
from plugins.providers.llama_cpp.supervision.completion_stream import CompletionStream
from plugins.providers.llama_cpp.supervision.engine_connection import EngineConnection
from plugins.providers.llama_cpp.supervision.engine_types import EngineLostError

# An engine reads a cancellation between two steps; the largest step takes a few seconds.
_CANCEL_TIMEOUT_S = 5.0


class CompletionConnection(EngineConnection[FromEngine]):
    """A connection to an engine that completes text."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._streams: dict[int, CompletionStream] = {}
        self._ids = count(1)

    @asynccontextmanager
    async def completion(self, request: CompletionRequest) -> AsyncGenerator[CompletionStream]:
        """A running completion, which is over at the end of the block: cancelled if it runs.

        Its `usage` is set then, unless the engine ended, refused the request, or did not
        confirm the cancellation in time. Raises InvalidInput, PayloadTooLarge or EngineLostError.
        """
        stream = self.submit(request)
        try:
            yield stream
        finally:
            await self._end(stream)

    @asynccontextmanager
    async def token_count(self, request: CompletionRequest) -> AsyncGenerator[CompletionStream]:
        """Counts the prompt's tokens: as `completion`, with a stream of `Finished` alone."""
        number = next(self._ids)
        stream = self._open_stream(request, CountTokens(number, request))
        try:
            yield stream
        finally:
            await self._end(stream)

    def submit(self, request: CompletionRequest) -> CompletionStream:
        """Start a completion; see `completion`."""
        return self._open_stream(request, Submit(next(self._ids), request))

    def _open_stream(
        self, request: CompletionRequest, message: Submit | CountTokens
    ) -> CompletionStream:
        """Only a request that was written is waited for."""
        try:
            self._write(message)
        except messages.EncodingError as error:
            raise InvalidInput(f"the request can't be processed: {error}") from error
        except messages.FrameError as error:
            raise PayloadTooLarge(f"the prompt is too large: {error}") from error
        stream = self._streams[message.id] = CompletionStream(message.id, request)
        return stream

    async def _end(self, stream: CompletionStream) -> None:
        """End a stream that nobody reads any more."""
        try:
            if not stream.ended:
                self._write(Cancel(stream.id))
                async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                    await stream.closed.wait()
        except (EngineLostError, TimeoutError):
            return
        finally:
            self._streams.pop(stream.id, None)

    def _decode(self, body: bytes) -> FromEngine:
        return messages.decode_from_engine(body)

    def _dispatch(self, message: FromEngine) -> None:
        match message:
            case ToolCallNotice() | Text() | Done() | Cancelled() | Refused():
                if isinstance(message, Done) and message.solo_tokens_per_second:
                    self.decode_speed = message.solo_tokens_per_second
                stream = self._streams.get(message.id)
                if stream is not None:
                    stream.feed(message)
            case Ready() | LoadFailed() | Progress():
                pass

    def _has_open_requests(self) -> bool:
        return bool(self._streams)

    def _fail_requests(self, error: Exception) -> None:
        for stream in list(self._streams.values()):
            stream.fail(error)
