"""Running completions: begun together, read as they come or to their end, and closed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.completions import Ask, Report
from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    TextDelta,
    TokenLikelihood,
    ToolCall,
)
from appliance.domain.users import Principal
from appliance.errors import ProviderFailed
from appliance.services.completions.protocol import Completion, Completions

_AHEAD = 64  # events of one request that may wait for a slow client

_Item = tuple[int, CompletionEvent | Exception | None]


class Collected(Struct):
    """A whole completion."""

    text: str
    likelihoods: list[TokenLikelihood]
    tool_calls: list[ToolCall]
    finished: Finished


async def start_all(
    service: Completions, principal: Principal, asks: Sequence[Ask], choices: int
) -> Sequence[Completion]:
    """`choices` completions of each ask, in the asks' order; all of them or none."""
    if len(asks) == 1:
        return await service.start(principal, asks[0], choices)
    starts = [asyncio.create_task(service.start(principal, ask, choices)) for ask in asks]
    try:
        groups = await asyncio.gather(*starts)
    except BaseException:
        for start in starts:
            start.cancel()
        for ended in await asyncio.gather(*starts, return_exceptions=True):
            if not isinstance(ended, BaseException):
                await close_all(ended)
        raise
    return [completion for group in groups for completion in group]


async def close_all(completions: Sequence[Completion]) -> None:
    for completion in completions:
        await completion.aclose()


async def collect_all(completions: Sequence[Completion]) -> list[Collected]:
    """Each to its end. Raises what the first one to fail raises; closes all in every case."""
    try:
        if len(completions) == 1:
            return [await _collect(completions[0])]
        return await _collect_side_by_side(completions)
    finally:
        await close_all(completions)


def slowest(completions: Iterable[Completion]) -> Report:
    """Of one request, the report of the completion for which the box itself took longest."""
    reports = (completion.report for completion in completions)
    return max(reports, key=lambda report: report.overhead_s)


async def merged(
    completions: Sequence[Completion],
) -> AsyncGenerator[tuple[int, CompletionEvent], None]:
    """The events of all as they come, each with its completion's place. Closes none."""
    if len(completions) == 1:
        async for event in completions[0]:
            yield 0, event
        return
    queue: asyncio.Queue[_Item] = asyncio.Queue(_AHEAD)
    pumps = [
        asyncio.create_task(_pump(index, completion, queue))
        for index, completion in enumerate(completions)
    ]
    try:
        async for item in _until_all_ended(queue, len(pumps)):
            yield item
    finally:
        await _cancelled(pumps)


async def _collect(completion: Completion) -> Collected:
    pieces: list[str] = []
    likelihoods: list[TokenLikelihood] = []
    tool_calls: list[ToolCall] = []
    finished: Finished | None = None
    # To the very end: a generator left before it is ended by the loop, in a task of its own.
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
        raise without_end()
    return Collected("".join(pieces), likelihoods, tool_calls, finished)


async def _collect_side_by_side(completions: Sequence[Completion]) -> list[Collected]:
    tasks = [asyncio.create_task(_collect(completion)) for completion in completions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancelled(tasks)


async def _pump(index: int, completion: Completion, queue: "asyncio.Queue[_Item]") -> None:
    try:
        async for event in completion:
            await queue.put((index, event))
    except Exception as error:
        await queue.put((index, error))  # the reader raises it, in the request that it belongs to
    else:
        await queue.put((index, None))


async def _until_all_ended(
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


async def _cancelled(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def without_end() -> ProviderFailed:
    """For a completion that stopped before its last event."""
    return ProviderFailed("the model's answer ended without saying why; try again")
