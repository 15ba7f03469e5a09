"""What an engine says about one request, waiting for its reader."""

import asyncio
from collections.abc import AsyncIterator

from appliance.domain.messages import CompletionEvent, Finished, TextDelta
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
    ProviderFailed,
)
from plugins.providers.llama_cpp.protocol import Done, RefusalKind, Refused, Text


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

    def __init__(self, number: int) -> None:
        self.number = number
        self._text: list[str] = []
        self._finished: Finished | None = None
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._finished is not None or self._error is not None

    def take(self, message: Text | Done | Refused) -> None:
        match message:
            case Text(_, text):
                self._text.append(text)
            case Done(_, reason, usage):
                self._finished = Finished(reason, usage)
            case Refused():
                self._error = _refusal(message)
        self._news.set()

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self._error = error
            self._news.set()

    async def events(self) -> AsyncIterator[CompletionEvent]:
        """Text as it comes, then the end. Raises what the engine refused with, or LinkError."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._text:
                text = "".join(self._text)
                self._text.clear()
                yield TextDelta(text)
            # The reader may have been away: what came meanwhile is told first.
            if self._text:
                self._news.set()
            elif self._error is not None:
                raise self._error
            elif self._finished is not None:
                yield self._finished
                return


def _refusal(refused: Refused) -> ApplianceError:
    kinds: dict[RefusalKind, type[ApplianceError]] = {
        RefusalKind.CONTEXT: ContextLengthExceeded,
        RefusalKind.INPUT: InvalidInput,
        RefusalKind.FAILED: ProviderFailed,
    }
    return kinds[refused.kind](refused.message, details=refused.details)
