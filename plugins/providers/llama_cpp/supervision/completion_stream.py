"""One completion between the engine and its reader: buffers text, parses tool calls."""

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
    Cancelled,
    Done,
    RefusalKind,
    Refused,
    Text,
    ToolCallNotice,
)
from plugins.providers.llama_cpp.tool_calls.stream_parser import ParsedPart, ToolCallParser


class CompletionStream:
    """Buffers what the engine sent for one request until its reader takes it.

    Text is joined while it waits: a slow reader costs at most the memory of its own
    completion, and blocks nobody else. `closed` is set when the engine is done with the
    request.
    """

    def __init__(self, id_: int, request: CompletionRequest) -> None:
        self.id = id_
        self._request = request
        self._parser: ToolCallParser | None = None
        self._text: list[str] = []
        self._likelihoods: list[TokenLikelihood] = []
        self._finished: Finished | None = None
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self.closed = asyncio.Event()
        self.usage: TokenUsage | None = None
        self.prompt_usage: TokenUsage | None = None

    @property
    def ended(self) -> bool:
        return self._finished is not None or self._error is not None

    def feed(self, message: ToolCallNotice | Text | Done | Cancelled | Refused) -> None:
        """Take a message of the engine."""
        self._apply(message)
        if not isinstance(message, ToolCallNotice | Text):
            self.closed.set()
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End the stream with this error unless it has ended."""
        if not self.ended:
            self._error = error
            self.closed.set()
            self._changed.set()

    async def events(self) -> AsyncIterator[CompletionEvent]:
        """Text and tool calls as they come, then Finished.

        Raises the engine's refusal, or EngineLostError.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            text = "".join(self._text)
            self._text.clear()
            for event in self._text_events(text):
                yield event
            # Text may have arrived while the reader was busy: it comes before the end.
            if self._text:
                self._changed.set()
            elif self._error is not None:
                raise self._error
            elif self._finished is not None:
                for event in self._final_events(self._finished):
                    yield event
                return

    def _apply(self, message: ToolCallNotice | Text | Done | Cancelled | Refused) -> None:
        match message:
            case ToolCallNotice(_, format_):
                parallel = self._request.tool_choice.parallel is not False
                self._parser = ToolCallParser(format_, self._request.tools, parallel=parallel)
            case Text(_, text, likelihoods, prompt):
                self.prompt_usage = prompt or self.prompt_usage
                self._text.append(text)
                self._likelihoods += likelihoods
            case Done(_, reason, usage, _, stop):
                # The model's own stop strings are not reported to the caller.
                reported = stop if stop in self._request.sampling.stop else ""
                self._finished, self.usage = Finished(reason, usage, reported), usage
            case Cancelled(_, usage):
                self.usage = usage
            case Refused():
                self._error = _to_error(message)

    def _text_events(self, text: str) -> Iterator[CompletionEvent]:
        """Likelihoods go with the text that they belong to; those of a call are dropped with it."""
        if self._parser is not None:
            yield from self._part_events(self._parser.feed(text))
        elif text or self._likelihoods:
            yield from self._part_events([text])

    def _final_events(self, finished: Finished) -> Iterator[CompletionEvent]:
        if self._parser is not None:
            truncated = finished.reason is FinishReason.LENGTH
            yield from self._part_events(self._parser.finish(truncated=truncated))
            if self._parser.calls and finished.reason is FinishReason.STOP:
                finished = msgspec.structs.replace(finished, reason=FinishReason.TOOL_CALLS)
        yield finished

    def _part_events(self, parts: list[ParsedPart]) -> Iterator[CompletionEvent]:
        for part in parts:
            likelihoods, self._likelihoods = tuple(self._likelihoods), []
            yield TextDelta(part, likelihoods) if isinstance(part, str) else part


def _to_error(refused: Refused) -> ApplianceError:
    kinds: dict[RefusalKind, type[ApplianceError]] = {
        RefusalKind.CONTEXT: ContextLengthExceeded,
        RefusalKind.INPUT: InvalidInput,
        RefusalKind.FAILED: ProviderFailed,
    }
    return kinds[refused.kind](refused.message, details=refused.details)
