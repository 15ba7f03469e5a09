"""Streams of completions in any format: start, heartbeats, end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from appliance.api.streaming.completion_stream import EventFrames, PendingCompletions, open_stream
from appliance.api.streaming.sse import NamedFrame
from appliance.domain.messages import TextDelta
from appliance.errors import QueueFull
from appliance.services.completions.service import Completion
from tests.api.scripted_completions import HELLO, Scripted

FRAME = NamedFrame({"type": "piece"})
BEAT = b"event: ping\n\n"


async def frames(starting: PendingCompletions) -> EventFrames:
    (completion,) = await starting
    async for event in completion:
        if isinstance(event, TextDelta):
            yield FRAME


async def body_of(answer: Any) -> AsyncGenerator[bytes, None]:
    async for chunk in answer.iterator:
        yield chunk


async def test_stream_when_all_goes_well_then_its_frames_and_the_end() -> None:
    completion = Scripted(HELLO)

    async def start() -> Sequence[Completion]:
        return [completion]

    answer = await open_stream(start(), frames, {"X-Own": "1"})
    assert answer.headers["X-Own"] == "1"
    assert answer.headers["X-Cache-Status"] == "MISS"
    assert [chunk async for chunk in body_of(answer)] == [FRAME.encode()] * 2
    async with asyncio.timeout(10):
        await completion.closed.wait()


async def test_stream_when_the_start_takes_long_then_heartbeats_until_then() -> None:
    completion, go = Scripted(HELLO), asyncio.Event()

    async def start() -> Sequence[Completion]:
        await go.wait()
        return [completion]

    answer = await open_stream(start(), frames, {}, heartbeat=BEAT, heartbeat_s=0.01)
    assert "X-Cache-Status" not in answer.headers
    chunks: list[bytes] = []
    async for chunk in body_of(answer):
        chunks.append(chunk)
        go.set()
    assert chunks[0] == BEAT
    assert chunks[-2:] == [FRAME.encode()] * 2


async def test_stream_when_idle_then_heartbeats_until_the_reader_closes() -> None:
    completion = Scripted([TextDelta("a"), None])

    async def start() -> Sequence[Completion]:
        return [completion]

    answer = await open_stream(start(), frames, {}, heartbeat=BEAT, heartbeat_s=0.01)
    body = body_of(answer)
    assert await anext(body) == FRAME.encode()
    assert await anext(body) == BEAT
    await cast("Any", answer.iterator).aclose()
    async with asyncio.timeout(10):
        await completion.closed.wait()


async def test_stream_when_the_start_is_refused_then_it_is_raised() -> None:
    async def start() -> Sequence[Completion]:
        raise QueueFull("too many wait")

    with pytest.raises(QueueFull):
        await open_stream(start(), frames, {})


async def test_stream_when_its_reader_is_slow_then_little_is_made_ahead() -> None:
    completion, made = Scripted(HELLO), 0

    async def start() -> Sequence[Completion]:
        return [completion]

    async def endless(_: PendingCompletions) -> EventFrames:
        nonlocal made
        while True:
            made += 1
            yield FRAME

    answer = await open_stream(start(), endless, {})
    body = body_of(answer)
    assert await anext(body) == FRAME.encode()
    await asyncio.sleep(0.01)  # nothing more may be made
    assert made < 32
    await cast("Any", answer.iterator).aclose()
    async with asyncio.timeout(10):
        await completion.closed.wait()
