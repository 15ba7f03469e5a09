"""Several completions of one request: starts, merges or collects, and closes them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.completions import CompletionReport, CompletionSpec
from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    TextDelta,
    TokenLikelihood,
    ToolCall,
)
from appliance.domain.users import Principal
from appliance.errors import ProviderFailed
from appliance.services.completions.service import Completion, CompletionService

_MAX_BUFFERED_EVENTS = 64  # events buffered for a slow client

_Item = tuple[int, CompletionEvent | Exception | None]


class CollectedCompletion(Struct):
    """A completion that has ended."""

    text: str
    likelihoods: list[TokenLikelihood]
    tool_calls: list[ToolCall]
    finished: Finished


async def start_all(
    service: CompletionService, principal: Principal, specs: Sequence[CompletionSpec], choices: int
) -> Sequence[Completion]:
    """Start `choices` completions of each spec, in order. If one fails, all are closed."""
    if len(specs) == 1:
        return await service.start(principal, specs[0], choices)
    starts = [asyncio.create_task(service.start(principal, spec, choices)) for spec in specs]
    try:
        groups = await asyncio.gather(*starts)
    except BaseException:
        for start in starts:
            start.cancel()
        for result in await asyncio.gather(*starts, return_exceptions=True):
            if not isinstance(result, BaseException):
                await close_all(result)
        raise
    return [completion for group in groups for completion in group]


async def close_all(completions: Sequence[Completion]) -> None:
    for completion in completions:
        await completion.aclose()


async def collect_all(completions: Sequence[Completion]) -> list[CollectedCompletion]:
    """Read each to its end, then close all. Raises the first error."""
    try:
        if len(completions) == 1:
            return [await _collect(completions[0])]
        return await _collect_concurrently(completions)
    finally:
        await close_all(completions)


def slowest_report(completions: Iterable[Completion]) -> CompletionReport:
    """The report of the completion with the largest overhead in the gateway."""
    reports = (completion.report for completion in completions)
    return max(reports, key=lambda report: report.overhead_s)


async def merge_events(
    completions: Sequence[Completion],
) -> AsyncGenerator[tuple[int, CompletionEvent], None]:
    """The events of all completions, each with the completion's index. Closes none of them."""
    if len(completions) == 1:
        async for event in completions[0]:
            yield 0, event
        return
    queue: asyncio.Queue[_Item] = asyncio.Queue(_MAX_BUFFERED_EVENTS)
    pumps = [
        asyncio.create_task(_pump(index, completion, queue))
        for index, completion in enumerate(completions)
    ]
    try:
        async for item in _drain_queue(queue, len(pumps)):
            yield item
    finally:
        await _cancel_all(pumps)


async def _collect(completion: Completion) -> CollectedCompletion:
    pieces: list[str] = []
    likelihoods: list[TokenLikelihood] = []
    tool_calls: list[ToolCall] = []
    finished: Finished | None = None
    # Exhaust it: the event loop would finalize an abandoned generator in another task.
    async for event in completion:
        match event:
            case TextDelta():
                pieces.append(event.text)
                likelihoods.extend(event.likelihoods)
            case ToolCall():
                tool_calls.append(event)
            case Finished():
                finished = event
    if finished is None:
        raise missing_end_error()
    return CollectedCompletion("".join(pieces), likelihoods, tool_calls, finished)


async def _collect_concurrently(completions: Sequence[Completion]) -> list[CollectedCompletion]:
    tasks = [asyncio.create_task(_collect(completion)) for completion in completions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel_all(tasks)


async def _pump(index: int, completion: Completion, queue: "asyncio.Queue[_Item]") -> None:
    try:
        async for event in completion:
            await queue.put((index, event))
    except Exception as error:
        await queue.put((index, error))  # raised by the reader, in the context of its request
    else:
        await queue.put((index, None))


async def _drain_queue(
    queue: "asyncio.Queue[_Item]", running: int
) -> AsyncIterator[tuple[int, CompletionEvent]]:
    while running:
        index, event = await queue.get()
        if event is None:
            running -= 1
        elif isinstance(event, Exception):
            raise event
        else:
            yield index, event


async def _cancel_all(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def missing_end_error() -> ProviderFailed:
    """The error of a completion without its last event."""
    return ProviderFailed("the model's answer ended without a finish reason; try again")
