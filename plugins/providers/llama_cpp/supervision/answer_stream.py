"""What an engine says about one request, waiting for its reader."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Finished,
    FinishReason,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
)
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
    ProviderFailed,
)
from plugins.providers.llama_cpp.protocol.messages import (
    Calls,
    Cancelled,
    Done,
    RefusalKind,
    Refused,
    Text,
)
from plugins.providers.llama_cpp.tool_calls.stream_parser import CallReader, Piece


class LinkError(Exception):
    """The engine went away while it was needed. `can_retry`: not by our own will."""

    def __init__(self, reason: str, *, can_retry: bool = True) -> None:
        super().__init__(reason)
        self.can_retry = can_retry


class Answer:
    """What the engine said about one request and its reader has not taken yet.

    Pieces of text wait as one: however slow the reader, this holds no more than the
    answer's own text, and nobody else waits for it.
    """

    def __init__(self, number: int, request: CompletionRequest) -> None:
        self.number = number
        self._request = request
        self._reader: CallReader | None = None
        self._text: list[str] = []
        self._likelihoods: list[TokenLikelihood] = []
        self._finished: Finished | None = None
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self.over = asyncio.Event()
        self.usage: TokenUsage | None = None

    @property
    def ended(self) -> bool:
        return self._finished is not None or self._error is not None

    def take(self, message: Calls | Text | Done | Cancelled | Refused) -> None:
        self._note(message)
        if not isinstance(message, Calls | Text):
            self.over.set()
        self._news.set()

    def _note(self, message: Calls | Text | Done | Cancelled | Refused) -> None:
        match message:
            case Calls():
                self._reader = self._made_reader(message)
            case Text(_, text, likelihoods):
                self._text.append(text)
                self._likelihoods += likelihoods
            case Done(_, reason, usage, _, stop):
                # The model's own marks end answers too; they are not the caller's.
                known = stop if stop in self._request.sampling.stop else ""
                self._finished, self.usage = Finished(reason, usage, known), usage
            case Cancelled(_, usage):
                self.usage = usage
            case Refused():
                self._error = _refusal(message)

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self._error = error
            self.over.set()
            self._news.set()

    async def events(self) -> AsyncIterator[CompletionEvent]:
        """Text and calls as they come, then the end.

        Raises what the engine refused with, or LinkError.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            text = "".join(self._text)
            self._text.clear()
            for event in self._told(text):
                yield event
            # The reader may have been away: what came meanwhile is told first.
            if self._text:
                self._news.set()
            elif self._error is not None:
                raise self._error
            elif self._finished is not None:
                for event in self._last(self._finished):
                    yield event
                return

    def _made_reader(self, calls: Calls) -> CallReader:
        asked = self._request
        return CallReader(calls.form, asked.tools, parallel=asked.tool_choice.parallel)

    def _told(self, text: str) -> Iterator[CompletionEvent]:
        """Likelihoods go with the text that they are of; those of a call go with the call."""
        if self._reader is not None:
            yield from self._events(self._reader.push(text))
        elif text or self._likelihoods:
            yield from self._events([text])

    def _last(self, finished: Finished) -> Iterator[CompletionEvent]:
        if self._reader is not None:
            yield from self._events(self._reader.finish(cut=finished.reason is FinishReason.LENGTH))
            if self._reader.calls and finished.reason is FinishReason.STOP:
                finished = msgspec.structs.replace(finished, reason=FinishReason.TOOL_CALLS)
        yield finished

    def _events(self, pieces: list[Piece]) -> Iterator[CompletionEvent]:
        for piece in pieces:
            likelihoods, self._likelihoods = tuple(self._likelihoods), []
            yield TextDelta(piece, likelihoods) if isinstance(piece, str) else piece


def _refusal(refused: Refused) -> ApplianceError:
    kinds: dict[RefusalKind, type[ApplianceError]] = {
        RefusalKind.CONTEXT: ContextLengthExceeded,
        RefusalKind.INPUT: InvalidInput,
        RefusalKind.FAILED: ProviderFailed,
    }
    return kinds[refused.kind](refused.message, details=refused.details)
