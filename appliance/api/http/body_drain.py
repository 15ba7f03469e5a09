"""Reads a request body within its deadline, and the rest of it if the request is answered early.

If a server closes a connection on which data still arrives, the kernel resets it, and the
client may lose the response (413, 401) and see a broken connection only. So the rest of
the body is read first, within limits of size and time.
"""

import asyncio
import math
import time
from contextlib import suppress
from typing import Any

from litestar.types import HTTPScope, Receive

from appliance.api.http import request_context
from appliance.api.http.body_deadline import AwaitedBody, BodyDeadlines

_MAX_DRAINED_BYTES = 64 * 1024 * 1024
_MAX_DRAIN_S = 10.0
_IDLE_TIMEOUT_S = 1.0
# Hostile clients whose requests are refused may send their bodies byte by byte.
_MAX_DRAINING = 32
_SMALL_PIECE_BYTES = 1024


class DrainableBody(AwaitedBody):
    """Wraps `receive` and knows whether the end of the body was read.

    A body with a Content-Length ends with its last byte. The server reports the end only at
    the next `receive`, which would cost each request another turn of the event loop.
    """

    def __init__(self, scope: HTTPScope, receive: Receive, deadlines: BodyDeadlines) -> None:
        super().__init__()
        self._scope = scope
        self._receive = receive
        self._deadlines = deadlines
        headers = dict(scope["headers"])
        length, is_chunked = headers.get(b"content-length", b"0"), b"transfer-encoding" in headers
        self._remaining = int(length) if length.isdigit() and not is_chunked else math.inf
        # With Expect, nothing is sent before 100 Continue.
        self._complete = (length == b"0" and not is_chunked) or b"expect" in headers

    async def receive(self) -> Any:
        """The next message. Raises BodyTimeout."""
        if self._complete:
            return await self._receive()
        self._deadlines.start(self)
        try:
            message = await self._receive_piece()
        except asyncio.CancelledError:
            if not self.caused_cancellation():
                raise
            self._complete = True  # the rest would come as slowly
            raise self._deadlines.error() from None
        finally:
            self._deadlines.stop(self)
        if not self._complete:
            await self._pace(message)
        return message

    async def _receive_piece(self) -> Any:
        message: Any = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.received += size
            self._remaining -= size
            message["more_body"] = message.get("more_body", False) and self._remaining > 0
        if not message.get("more_body", False):
            self._complete = True  # also set when the client disconnects
        return message

    async def drain(self) -> None:
        """Read the rest, at most _MAX_DRAINED_BYTES and _MAX_DRAIN_S seconds of it.

        Nothing is read while _MAX_DRAINING others are.
        """
        if self._complete or self._deadlines.draining >= _MAX_DRAINING:
            return
        self._deadlines.draining += 1
        try:
            await self._drain()
        finally:
            self._deadlines.draining -= 1

    async def _drain(self) -> None:
        budget, deadline = _MAX_DRAINED_BYTES, time.monotonic() + _MAX_DRAIN_S
        with suppress(TimeoutError):
            while not self._complete and budget > 0 and time.monotonic() < deadline:
                async with asyncio.timeout(_IDLE_TIMEOUT_S):
                    message = await self._receive_piece()
                await self._pace(message)
                budget -= len(message.get("body", b""))

    async def _pace(self, message: Any) -> None:
        """Let small pieces gather, whatever the rate at which they are sent."""
        if len(message.get("body", b"")) < _SMALL_PIECE_BYTES:
            client = request_context.client_key(self._scope)
            await self._deadlines.small_pieces.wait(client)
