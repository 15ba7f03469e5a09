"""Writes completions as a stream of server-sent events."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from litestar import Request

from appliance.api.openai.answers import AnswerHeader, PendingAnswer, sum_usage
from appliance.api.openai.errors import adapt_problem, error_body
from appliance.api.openai.stream_chunks import DONE, Chunks
from appliance.api.openai.stream_merge import merge_events, missing_end_error
from appliance.api.streaming.completion_stream import (
    EventFrames,
    PendingCompletions,
    describe_stream_error,
)
from appliance.domain.messages import Finished, TokenUsage

AnyRequest = Request[Any, Any, Any]


class Encoded(NamedTuple):
    """A frame that is already encoded."""

    content: bytes

    def encode(self) -> bytes:
        return self.content


class StreamPlan(NamedTuple):
    """How to write a stream. `choices` completions share one prompt."""

    answer: PendingAnswer
    chunks: Callable[[AnswerHeader], Chunks]
    choices: int
    with_usage: bool


async def stream_frames(
    request: AnyRequest, plan: StreamPlan, pending: PendingCompletions
) -> EventFrames:
    """The chunks, then [DONE]; on failure, an error as the last event."""
    try:
        completions = await pending
        chunks = plan.chunks(plan.answer.header(completions[0].report))
        for index in range(len(completions)):
            if first := chunks.begin(index):
                yield Encoded(first)
        used: list[TokenUsage | None] = [None] * len(completions)
        async with aclosing(merge_events(completions)) as events:
            async for index, event in events:
                if isinstance(event, Finished):
                    used[index] = event.usage
                yield Encoded(chunks.event(index, event))
        total = sum_usage(_require_all_usage(used), plan.choices)
        if plan.with_usage:
            yield Encoded(chunks.usage(total))
        yield Encoded(DONE)
    except Exception as error:
        problem = adapt_problem(request, describe_stream_error(request, error))
        yield Encoded(b"data: %b\n\n" % msgspec.json.encode(error_body(problem)))


def _require_all_usage(used: Sequence[TokenUsage | None]) -> list[TokenUsage]:
    ended = [each for each in used if each is not None]
    if len(ended) < len(used):
        raise missing_end_error()
    return ended
