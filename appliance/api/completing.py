"""A completion within a request: it lives no longer than the client waits for it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import structlog
from litestar import Request, Response
from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.departure import ClientGone, unless_gone
from appliance.api.dialects import Problem
from appliance.api.errors import problem_of
from appliance.api.streaming import HEARTBEAT, HEARTBEAT_S, STREAM_HEADERS, Encodable, encoded
from appliance.domain.completions import Report
from appliance.errors import ApplianceError
from appliance.services.completions import Completion

log = structlog.get_logger()

_UNWATCHED_S = 0.25
_GONE = 499  # what proxies log for a client that went away first

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


async def attended(request: AnyRequest, work: Coroutine[Any, Any, Response[Any]]) -> Response[Any]:
    """The answer of `work`, which is cancelled when the client goes away.

    The body of the request has to be read already.
    """
    try:
        return await unless_gone(request, work, _UNWATCHED_S)
    except ClientGone:
        return Response(None, status_code=_GONE)


def problem_within(request: AnyRequest, error: Exception) -> Problem:
    """A failure after the answer has begun, for the stream's last event; a surprise is logged."""
    if not isinstance(error, ApplianceError):
        log.error("a stream failed", path=request.scope["path"], exc_info=error)
    return problem_of(request, error)


class CompletionStream(Stream):
    """Server-sent events of a completion; `close` is awaited once, however the answer ends."""

    def __init__(
        self,
        frames: EventFrames,
        close: Close,
        headers: dict[str, str],
        *,
        heartbeat: bytes = HEARTBEAT,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._close = close
        self._begun = False
        self._body = encoded(self._owned(frames), heartbeat_s, heartbeat)
        super().__init__(
            self._body, media_type="text/event-stream", headers=STREAM_HEADERS | headers
        )

    def to_asgi_response(self, *args: Any, **options: Any) -> Any:
        """The framework's own answer, and the end of the completion after it."""
        framework = cast("Any", super())  # its own annotations are incomplete
        answer: ASGIApp = framework.to_asgi_response(*args, **options)

        async def closing(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await answer(scope, receive, send)
            finally:
                await self._body.aclose()
                # A client that is gone before the first frame: no generator ever ran.
                if not self._begun:
                    await self._close()

        return closing

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
