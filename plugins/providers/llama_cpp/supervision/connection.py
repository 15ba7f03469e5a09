"""The server's end of the connection to an engine, and the streams that run over it."""

import asyncio
import socket
from itertools import count

from appliance.domain.messages import CompletionRequest, TokenUsage
from appliance.errors import PayloadTooLarge
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import (
    Broken,
    Calls,
    Cancel,
    Cancelled,
    Count,
    Done,
    FromEngine,
    Progress,
    Ready,
    Refused,
    Submit,
    Text,
    ToEngine,
)
from plugins.providers.llama_cpp.supervision.answer_stream import Answer, LinkError

# An engine hears of a cancellation between two steps; the largest takes a few seconds.
_LAST_WORD_S = 5.0


class Link:
    """A connection to a ready engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._answers: dict[int, Answer] = {}
        self._numbers = count(1)
        self.speed: float | None = None
        self._last_heard = asyncio.get_running_loop().time()

    @classmethod
    async def over(cls, connection: socket.socket) -> "Link":
        """A link over an accepted socket."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(reader, writer)

    @property
    def silence_s(self) -> float:
        """How long the engine has said nothing although something was asked of it."""
        now = asyncio.get_running_loop().time()
        return now - self._last_heard if self._answers else 0.0

    async def configure(self, configure: messages.Configure) -> Ready | Broken:
        """Tell the engine what to load and wait for its word. Raises LinkError."""
        self._write(configure)
        while not isinstance(message := await self._receive(), Ready | Broken):
            pass
        return message

    def submit(self, request: CompletionRequest) -> Answer:
        """Start a completion. Raises PayloadTooLarge or LinkError."""
        answer = self._open(request)
        return self._ask(answer, Submit(answer.number, request))

    def count(self, request: CompletionRequest) -> Answer:
        """Ask for the prompt's tokens. Raises PayloadTooLarge or LinkError."""
        answer = self._open(request)
        return self._ask(answer, Count(answer.number, request))

    def forget(self, answer: Answer) -> None:
        """Nobody waits for it any more."""
        self._answers.pop(answer.number, None)

    async def end(self, answer: Answer) -> TokenUsage | None:
        """Nobody reads it any more: the engine stops writing it, and says what it used.

        None if it does not: it was lost, refused, or is not heard of for a while.
        """
        try:
            if not answer.ended:
                self._write(Cancel(answer.number))
                async with asyncio.timeout(_LAST_WORD_S):
                    await answer.over.wait()
        except (LinkError, TimeoutError):
            return None
        finally:
            self.forget(answer)
        return answer.usage

    async def read(self) -> None:
        """Hand out what the engine says until it goes away. Raises LinkError then."""
        while True:
            message = await self._receive()
            self._last_heard = asyncio.get_running_loop().time()
            self._deliver(message)

    def fail(self, error: Exception) -> None:
        """End every open answer with this error and close the connection."""
        for answer in list(self._answers.values()):
            answer.fail(error)
        self._writer.close()

    def _open(self, request: CompletionRequest) -> Answer:
        if not self._answers:
            self._last_heard = asyncio.get_running_loop().time()
        answer = Answer(next(self._numbers), request)
        self._answers[answer.number] = answer
        return answer

    def _ask(self, answer: Answer, message: ToEngine) -> Answer:
        try:
            self._write(message)
        except (messages.FrameError, LinkError) as error:
            del self._answers[answer.number]
            if isinstance(error, LinkError):
                raise
            raise PayloadTooLarge(f"the prompt is too large: {error}") from error
        return answer

    def _deliver(self, message: FromEngine) -> None:
        match message:
            case Calls() | Text() | Done() | Cancelled() | Refused():
                if isinstance(message, Done) and message.solo_tokens_per_second:
                    self.speed = message.solo_tokens_per_second
                answer = self._answers.get(message.id)
                if answer is not None:
                    answer.take(message)
            case Ready() | Broken() | Progress():
                pass

    def _write(self, message: ToEngine) -> None:
        frame = messages.pack(message)
        if self._writer.is_closing():
            raise LinkError("the engine is gone")
        self._writer.write(frame)

    async def _receive(self) -> FromEngine:
        try:
            header = await self._reader.readexactly(messages.HEADER_BYTES)
            body = await self._reader.readexactly(messages.body_length(header))
            return messages.from_engine(body)
        except (asyncio.IncompleteReadError, OSError, messages.FrameError) as error:
            raise LinkError("the engine is gone") from error
