"""Answers of completions, whole or as server-sent events; a disconnect cancels them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.http.dialect import Problem
from appliance.api.http.errors import to_problem
from appliance.api.http.fast_route import JsonResponse, encode_headers
from appliance.api.streaming.disconnect import ClientDisconnected, cancel_on_disconnect
from appliance.api.streaming.sse import (
    HEARTBEAT,
    HEARTBEAT_S,
    STREAM_HEADERS,
    Encodable,
    encode_stream,
)
from appliance.domain.completions import CompletionReport
from appliance.errors import ApplianceError
from appliance.services.completions.service import Completion

log = structlog.get_logger()

_WATCH_DELAY_S = 0.25
_CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that disconnected first
_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}

AnyRequest = Request[Any, Any, Any]
EventFrames = AsyncGenerator[Encodable, None]
Close = Callable[[], Awaitable[None]]
Start = Coroutine[Any, Any, Sequence[Completion]]
PendingCompletions = asyncio.Task[Sequence[Completion]]


def report_headers(report: CompletionReport) -> dict[str, str]:
    """Provider, attempts, cache status and the gateway's own time so far."""
    return {
        "X-Provider-Used": report.provider,
        "X-Attempts": str(len(report.attempts)),
        "X-Cache-Status": report.cache.value,
        "X-Overhead-Ms": f"{report.overhead_s * 1000:.3f}",
    }


async def respond_unless_disconnected(
    request: AnyRequest, work: Coroutine[Any, Any, ASGIApp]
) -> ASGIApp:
    """The response that `work` returns; 499 if the client disconnects, which cancels `work`.

    The body of the request must have been read.
    """
    try:
        return await cancel_on_disconnect(request.receive, work, _WATCH_DELAY_S)
    except ClientDisconnected:
        return JsonResponse(None, status=_CLIENT_CLOSED_REQUEST)


def describe_stream_error(request: AnyRequest, error: Exception) -> Problem:
    """An error after the start of the response, for its last event; logs unexpected ones."""
    if not isinstance(error, ApplianceError):
        log.error("a stream failed", path=request.scope["path"], exc_info=error)
    return to_problem(request, error)


class CompletionStream:
    """Server-sent events of a completion, as an ASGI application.

    `close` is awaited once in every case. A disconnect ends the stream.
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
        self._started = False
        self.iterator = encode_stream(self._closing_frames(frames), heartbeat_s, heartbeat)
        self.headers = _STREAM_HEADERS | dict(headers)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await cancel_on_disconnect(receive, self._send(send), _WATCH_DELAY_S)
        except ClientDisconnected:
            return
        finally:
            await self.iterator.aclose()
            # Disconnected before the first frame: the generator never ran.
            if not self._started:
                await self._close()

    async def _send(self, send: Send) -> None:
        headers = encode_headers(self.headers)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self.iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _closing_frames(self, frames: EventFrames) -> EventFrames:
        self._started = True
        try:
            async with aclosing(frames):
                async for frame in frames:
                    yield frame
        finally:
            await self._close()


async def open_stream(
    start: Start,
    frames: Callable[[PendingCompletions], EventFrames],
    headers: Mapping[str, str],
    *,
    heartbeat: bytes = HEARTBEAT,
    heartbeat_s: float = HEARTBEAT_S,
) -> CompletionStream:
    """Wait for the first tokens, then return the stream of `frames`.

    An error until then is an error of the request. If it takes longer than `heartbeat_s`, as
    for a very long prompt, the stream starts without report headers, and `frames` renders
    the error.
    """
    pending: PendingCompletions = asyncio.create_task(start)
    try:
        await asyncio.wait({pending}, timeout=heartbeat_s)
        reported = report_headers(pending.result()[0].report) if pending.done() else {}
    except BaseException:
        await _close_pending(pending)
        raise
    return CompletionStream(
        frames(pending),
        lambda: _close_pending(pending),
        {**headers, **reported},
        heartbeat=heartbeat,
        heartbeat_s=heartbeat_s,
    )


async def _close_pending(pending: PendingCompletions) -> None:
    """Cancel the start, or close the completions that it has started."""
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    if not pending.cancelled() and pending.exception() is None:
        for completion in pending.result():
            await completion.aclose()
