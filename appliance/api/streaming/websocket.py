"""WebSockets that exchange JSON objects: size limit, relaying, interruption and closing."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from litestar import WebSocket
from litestar.connection import ASGIConnection
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import BaseRouteHandler

from appliance.api.http.auth import find_credential
from appliance.errors import ApplianceError, InvalidInput, PayloadTooLarge, Unauthenticated

AnySocket = WebSocket[Any, Any, Any]
Message = Mapping[str, Any]
Messages = AsyncGenerator[Message, None]
T = TypeVar("T")

_LAST_MESSAGE_S = 10.0

log = structlog.get_logger()


class CloseReason(NamedTuple):
    """The code and the text of a close frame."""

    code: int
    text: str


class CloseReasons(NamedTuple):
    """How a dialect closes a session that is complete, was refused, or failed unexpectedly."""

    complete: CloseReason
    refused: CloseReason
    internal_error: CloseReason


class CloseConnection(Exception):
    """Raised to end a session with `reason`."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class JsonSocket:
    """A WebSocket whose messages are JSON objects, received up to a size of `max_bytes`."""

    def __init__(self, socket: AnySocket, max_bytes: int) -> None:
        self._socket = socket
        self._max_bytes = max_bytes

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises InvalidInput, PayloadTooLarge, WebSocketDisconnect."""
        event: Any = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(detail="the client disconnected")
        message = event.get("text") or event.get("bytes") or b""
        if len(message) > self._max_bytes:
            raise PayloadTooLarge("The message exceeds the limit of this server.")
        try:
            return msgspec.json.decode(message, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise InvalidInput("a message must be a JSON object") from None

    async def send(self, message: Message) -> None:
        await self._socket.send_text(msgspec.json.encode(message).decode())


def require_header_credential(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    """Guard: browsers open WebSockets with cookies for pages of any site, so cookies don't count.

    Raises Unauthenticated.
    """
    credential = find_credential(connection)
    if credential is None or credential.from_cookie:
        raise Unauthenticated("a WebSocket needs Authorization: Bearer, or X-API-Key")


async def serve_session(
    socket: AnySocket,
    session: Coroutine[Any, Any, None],
    reasons: CloseReasons,
    send_error: Callable[[ApplianceError], Coroutine[Any, Any, None]],
) -> None:
    """Run `session` and close the connection; `send_error` reports an ApplianceError before.

    A disconnect ends the session without an error.
    """
    with suppress(WebSocketDisconnect):
        reason = await _run_session(socket, session, reasons, send_error)
        await socket.close(reason.code, reason.text)


async def _run_session(
    socket: AnySocket,
    session: Coroutine[Any, Any, None],
    reasons: CloseReasons,
    send_error: Callable[[ApplianceError], Coroutine[Any, Any, None]],
) -> CloseReason:
    try:
        await session
    except CloseConnection as close:
        return close.reason
    except ApplianceError as error:
        await send_error(error)
        return reasons.refused
    except WebSocketDisconnect:
        raise
    except Exception:
        log.exception("a request failed", path=socket.scope["path"])
        return reasons.internal_error
    return reasons.complete


async def relay(
    socket: JsonSocket,
    messages: Messages,
    interrupt: Coroutine[Any, Any, T],
    *,
    is_last: Callable[[Message], bool],
) -> T | None:
    """Send `messages`; None when all are sent.

    If `interrupt` returns or raises first, `messages` are closed and its result is returned or
    its error raised. From the last message on, it is ignored.
    """
    last = asyncio.Event()
    sender = asyncio.create_task(_send_all(socket, messages, last, is_last))
    interrupter = asyncio.create_task(interrupt)
    try:
        await asyncio.wait({sender, interrupter}, return_when=asyncio.FIRST_COMPLETED)
        if last.is_set():
            await asyncio.wait({sender}, timeout=_LAST_MESSAGE_S)
    finally:
        await _cancel(sender, interrupter)
    if sender.cancelled():
        return interrupter.result()
    sender.result()
    return None


async def _send_all(
    socket: JsonSocket, messages: Messages, last: asyncio.Event, is_last: Callable[[Message], bool]
) -> None:
    async with aclosing(messages):
        async for message in messages:
            if is_last(message):
                last.set()
            await socket.send(message)


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # mark as retrieved: only one of two errors is raised
