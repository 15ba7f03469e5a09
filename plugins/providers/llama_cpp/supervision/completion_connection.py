"""The connection to an engine of a text model, and the completion streams over it."""

import asyncio
from itertools import count

from appliance.domain.messages import CompletionRequest, TokenUsage
from appliance.errors import PayloadTooLarge
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
    ToEngine,
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

    def submit(self, request: CompletionRequest) -> CompletionStream:
        """Start a completion. Raises PayloadTooLarge or EngineLostError."""
        stream = self._open_stream(request)
        return self._send(stream, Submit(stream.id, request))

    def count_tokens(self, request: CompletionRequest) -> CompletionStream:
        """Count the prompt's tokens: a stream of `Finished` alone. Raises as `submit` does."""
        stream = self._open_stream(request)
        return self._send(stream, CountTokens(stream.id, request))

    def forget(self, stream: CompletionStream) -> None:
        """Drop a stream that nobody reads any more."""
        self._streams.pop(stream.id, None)

    async def end(self, stream: CompletionStream) -> TokenUsage | None:
        """End a stream that nobody reads any more, cancelling it in the engine if it runs.

        Returns its usage; None if the engine ended, refused the request, or does not
        confirm the cancellation in time.
        """
        try:
            if not stream.ended:
                self._write(Cancel(stream.id))
                async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                    await stream.closed.wait()
        except (EngineLostError, TimeoutError):
            return None
        finally:
            self.forget(stream)
        return stream.usage

    def _open_stream(self, request: CompletionRequest) -> CompletionStream:
        self._before_request()
        stream = CompletionStream(next(self._ids), request)
        self._streams[stream.id] = stream
        return stream

    def _send(self, stream: CompletionStream, message: ToEngine) -> CompletionStream:
        try:
            self._write(message)
        except (messages.FrameError, EngineLostError) as error:
            del self._streams[stream.id]
            if isinstance(error, EngineLostError):
                raise
            raise PayloadTooLarge(f"the prompt is too large: {error}") from error
        return stream

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
