"""Completions as the frames of a stream, merged as they come."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from litestar import Request

from appliance.api.openai.answers import Heading, Opening, usage_of
from appliance.api.openai.stream_chunks import DONE, Chunks
from appliance.api.openai.stream_merge import merged, without_end
from appliance.api.openai.vendor_errors import as_shown, error_body
from appliance.api.streaming.completion_stream import EventFrames, Starting, problem_within
from appliance.domain.messages import Finished, TokenUsage

AnyRequest = Request[Any, Any, Any]


class Encoded(NamedTuple):
    """Bytes that are ready to be sent."""

    content: bytes

    def encode(self) -> bytes:
        return self.content


class StreamPlan(NamedTuple):
    """How a stream is written. `choices` of the completions share one prompt."""

    opening: Opening
    chunks: Callable[[Heading], Chunks]
    choices: int
    with_usage: bool


async def frames_of(request: AnyRequest, plan: StreamPlan, starting: Starting) -> EventFrames:
    """The chunks and [DONE]; after a failure, the error and nothing more."""
    try:
        completions = await starting
        chunks = plan.chunks(plan.opening.heading(completions[0].report))
        for index in range(len(completions)):
            if first := chunks.begin(index):
                yield Encoded(first)
        used: list[TokenUsage | None] = [None] * len(completions)
        async with aclosing(merged(completions)) as events:
            async for index, event in events:
                if isinstance(event, Finished):
                    used[index] = event.usage
                yield Encoded(chunks.event(index, event))
        total = usage_of(_all_ended(used), plan.choices)
        if plan.with_usage:
            yield Encoded(chunks.usage(total))
        yield Encoded(DONE)
    except Exception as error:
        problem = as_shown(problem_within(request, error))
        yield Encoded(b"data: %b\n\n" % msgspec.json.encode(error_body(problem)))


def _all_ended(used: Sequence[TokenUsage | None]) -> list[TokenUsage]:
    ended = [each for each in used if each is not None]
    if len(ended) < len(used):
        raise without_end()
    return ended
