"""The rest of a request that was answered before all of it had come.

A server that closes a connection on which bytes still arrive makes the system reset it,
and the reset takes the answer along: the client would see no "too large" and no "log in",
but a broken connection. So what is left is taken and thrown away, within bounds.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

from litestar.types import HTTPScope, Receive

_BYTES = 64 * 1024 * 1024
_SECONDS = 10.0
_SILENT_S = 1.0


class RequestBody:
    """Stands between a request and who reads it, and knows whether its end was seen."""

    def __init__(self, scope: HTTPScope, receive: Receive) -> None:
        self._receive = receive
        self._ended = not _has_body(scope)

    async def receive(self) -> Any:
        message: Any = await self._receive()
        if not message.get("more_body", False):
            self._ended = True  # also for a client that has gone
        return message

    async def discard(self) -> None:
        """Read what is left, at most so much of it and for so long."""
        if self._ended:
            return
        left, until = _BYTES, time.monotonic() + _SECONDS
        with suppress(TimeoutError):
            while not self._ended and left > 0 and time.monotonic() < until:
                async with asyncio.timeout(_SILENT_S):
                    message = await self.receive()
                left -= len(message.get("body", b""))


def _has_body(scope: HTTPScope) -> bool:
    headers = dict(scope["headers"])
    if b"expect" in headers:
        return False  # it sends nothing before it is told to go on
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
