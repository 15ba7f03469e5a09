"""The rest of a request that was answered before all of it had come.

A server that closes a connection on which bytes still arrive makes the system reset it,
and the reset takes the answer along: the client would see no "too large" and no "log in",
but a broken connection. So what is left is taken and thrown away, within bounds.
"""

import asyncio
import math
import time
from contextlib import suppress
from typing import Any

from litestar.types import HTTPScope, Receive

_BYTES = 64 * 1024 * 1024
_SECONDS = 10.0
_SILENT_S = 1.0


class RequestBody:
    """Stands between a request and who reads it, and knows whether its end was seen.

    A body whose length was announced ends with its last byte: the server would tell only
    when it is asked once more, which costs a request a turn of the event loop.
    """

    def __init__(self, scope: HTTPScope, receive: Receive) -> None:
        self._receive = receive
        headers = dict(scope["headers"])
        self._left = _announced(headers)
        self._ended = not _sends_body(headers)

    async def receive(self) -> Any:
        message: Any = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            message["more_body"] = message.get("more_body", False) and self._left > 0
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


def _sends_body(headers: dict[bytes, bytes]) -> bool:
    if b"expect" in headers:
        return False  # it sends nothing before it is told to go on
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _announced(headers: dict[bytes, bytes]) -> float:
    """How many bytes the body has, infinity where that is not known."""
    length = headers.get(b"content-length", b"")
    known = length.isdigit() and b"transfer-encoding" not in headers
    return int(length) if known else math.inf
