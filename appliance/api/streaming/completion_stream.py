"""A completion within a request: it lives no longer than the client waits for it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.http.dialect import Problem
from appliance.api.http.errors import problem_of
from appliance.api.http.fast_route import JsonAnswer, wire_headers
from appliance.api.streaming.disconnect import ClientGone, Line, unless_gone
from appliance.api.streaming.sse import HEARTBEAT, HEARTBEAT_S, STREAM_HEADERS, Encodable, encoded
from appliance.domain.completions import Report
from appliance.errors import ApplianceError
from appliance.services.completions.protocol import Completion

log = structlog.get_logger()

_UNWATCHED_S = 0.25
_GONE = 499  # what proxies log for a client that went away first
_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}

AnyRequest = Request[Any, Any, Any]
EventFrames = AsyncGenerator[Encodable, None]
Close = Callable[[], Awaitable[None]]
Start = Coroutine[Any, Any, Sequence[Completion]]
Starting = asyncio.Task[Sequence[Completion]]


def report_headers(report: Report) -> dict[str, str]:
    """Who serves a completion, from the cache or not, and the box's own time so far."""
    return {
        "X-Provider-Used": report.provider,
        "X-Attempts": str(len(report.attempts)),
        "X-Cache-Status": report.cache.value,
        "X-Overhead-Ms": f"{report.overhead_s * 1000:.3f}",
    }


async def attended(request: AnyRequest, work: Coroutine[Any, Any, ASGIApp]) -> ASGIApp:
    """The answer of `work`, which is cancelled when the client goes away.

    The body of the request has to be read already.
    """
    try:
        return await unless_gone(request, work, _UNWATCHED_S)
    except ClientGone:
        return JsonAnswer(None, status=_GONE)


def problem_within(request: AnyRequest, error: Exception) -> Problem:
    """A failure after the answer has begun, for the stream's last event; a surprise is logged."""
    if not isinstance(error, ApplianceError):
        log.error("a stream failed", path=request.scope["path"], exc_info=error)
    return problem_of(request, error)


class CompletionStream:
    """Server-sent events of a completion, for the server to run.

    `close` is awaited once, however the answer ends; it ends when the client goes away.
    """

    def __init__(
        self,
        frames: EventFrames,
        close: Close,
        headers: Mapping[str, str],
        *,
        heartbeat: bytes = HEARTBEAT,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._close = close
        self._begun = False
        self.iterator = encoded(self._owned(frames), heartbeat_s, heartbeat)
        self.headers = _STREAM_HEADERS | dict(headers)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(Line(receive), self._sent(send), _UNWATCHED_S)
        except ClientGone:
            return
        finally:
            await self.iterator.aclose()
            # A client that is gone before the first frame: no generator ever ran.
            if not self._begun:
                await self._close()

    async def _sent(self, send: Send) -> None:
        headers = wire_headers(self.headers)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self.iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _owned(self, frames: EventFrames) -> EventFrames:
        self._begun = True
        try:
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
        finally:
            await self._close()


async def streamed(
    start: Start,
    frames: Callable[[Starting], EventFrames],
    headers: Mapping[str, str],
    *,
    heartbeat: bytes = HEARTBEAT,
    heartbeat_s: float = HEARTBEAT_S,
) -> CompletionStream:
    """Wait for the first tokens, then answer with the `frames` of what was started.

    What fails by then is an error of the request. Where it takes longer than a heartbeat,
    as with a very long prompt, the stream begins without them, and tells a failure itself.
    """
    starting: Starting = asyncio.create_task(start)
    try:
        await asyncio.wait({starting}, timeout=heartbeat_s)
        told = report_headers(starting.result()[0].report) if starting.done() else {}
    except BaseException:
        await _close(starting)
        raise
    return CompletionStream(
        frames(starting),
        lambda: _close(starting),
        {**headers, **told},
        heartbeat=heartbeat,
        heartbeat_s=heartbeat_s,
    )


async def _close(starting: Starting) -> None:
    """End what runs, begun or not."""
    await _ended(starting)
    if not starting.cancelled() and starting.exception() is None:
        for completion in starting.result():
            await completion.aclose()


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel what still runs, and wait for its end, whatever it is."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
