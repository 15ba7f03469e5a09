"""WebSockets that exchange JSON objects: credentials, bounded queues, relaying and closing.

The guard of the routes authenticates a handshake by header, cookie (with an Origin check) or
`?token=`. A route whose row says `first_message` also accepts one without credentials: its
session then begins with `authenticate_first_message`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from appliance.api.http import request_context
from appliance.api.http.auth import authorize_token
from appliance.api.streaming.send_queue import SendQueue, SilentReader
from appliance.domain.users import Principal
from appliance.errors import ApplianceError, InvalidInput, PayloadTooLarge, Unauthenticated

AnySocket = WebSocket[Any, Any, Any]
Message = Mapping[str, Any]
Messages = AsyncGenerator[Message, None]
T = TypeVar("T")

_LAST_MESSAGE_S = 10.0
_CLOSE_S = 10.0
_FIRST_MESSAGE_S = 10.0

log = structlog.get_logger()


class CloseReason(NamedTuple):
    """The code and the text of a close frame."""

    code: int
    text: str


_SILENT_READER = CloseReason(1013, "Messages were not read; reconnect to resume")


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
    """A WebSocket whose messages are JSON objects, received up to a size of `max_bytes`.

    `serve_session` sends what is queued, and `heartbeat` while there is nothing to send.
    """

    def __init__(self, socket: AnySocket, max_bytes: int, heartbeat: Message | None = None) -> None:
        self.raw = socket
        idle = msgspec.json.encode(heartbeat) if heartbeat else b""
        self.queue = SendQueue(self._send_text, idle)
        self._max_bytes = max_bytes

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises InvalidInput, PayloadTooLarge, WebSocketDisconnect."""
        event: Any = await self.raw.receive()
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
        """Queue a message; waits while the queue is full."""
        await self.queue.put(msgspec.json.encode(message))

    async def discard_messages(self) -> None:
        """Read and ignore messages. Raises WebSocketDisconnect at the end, or as `receive`."""
        while True:
            await self.receive()

    async def _send_text(self, text: bytes) -> None:
        await self.raw.send_text(text.decode())


async def authenticate_first_message(client: JsonSocket) -> Principal:
    """The caller: of the handshake, else of a first message `{"type": "auth", "token": …}`.

    Raises Unauthenticated, also if the message does not come in time, and as the guard of the
    routes.
    """
    principal = request_context.principal(client.raw.scope)
    if principal is not None:
        return principal
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            message = await client.receive()
    except TimeoutError:
        raise Unauthenticated(
            f"no credentials within {_FIRST_MESSAGE_S:g} s: send Authorization: Bearer in the "
            'handshake, or {"type": "auth", "token": "…"} as the first message'
        ) from None
    token = message.get("token")
    if message.get("type") != "auth" or not isinstance(token, str):
        raise Unauthenticated('the first message must be {"type": "auth", "token": "…"}')
    return await authorize_token(client.raw, token)


async def serve_session(
    client: JsonSocket,
    session: Coroutine[Any, Any, None],
    reasons: CloseReasons,
    send_error: Callable[[ApplianceError], Coroutine[Any, Any, None]],
) -> None:
    """Run `session` and close the connection; `send_error` reports an ApplianceError before.

    A disconnect ends the session without an error. A client that does not read what is sent
    is closed with 1013.
    """
    sender = asyncio.create_task(client.queue.run())
    try:
        with suppress(WebSocketDisconnect):
            reported = _report_error(session, send_error, reasons.refused)
            reason = await _run_session(client, sender, reported, reasons)
            await _close(client, sender, reason)
    finally:
        await _cancel(sender)


async def _report_error(
    session: Coroutine[Any, Any, None],
    send_error: Callable[[ApplianceError], Coroutine[Any, Any, None]],
    refused: CloseReason,
) -> None:
    try:
        await session
    except ApplianceError as error:
        await send_error(error)
        raise CloseConnection(refused) from error


async def _run_session(
    client: JsonSocket,
    sender: "asyncio.Task[None]",
    session: Coroutine[Any, Any, None],
    reasons: CloseReasons,
) -> CloseReason:
    try:
        await _run_while_sending(session, sender)
    except CloseConnection as close:
        return close.reason
    except SilentReader:
        return _SILENT_READER
    except WebSocketDisconnect:
        raise
    except Exception:
        log.exception("a request failed", path=client.raw.scope["path"])
        return reasons.internal_error
    return reasons.complete


async def _run_while_sending(
    session: Coroutine[Any, Any, None], sender: "asyncio.Task[None]"
) -> None:
    """Run `session`; the sender's error ends it and is raised."""
    running = asyncio.create_task(session)
    try:
        await asyncio.wait({running, sender}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(running)
    (sender if running.cancelled() else running).result()


async def _close(client: JsonSocket, sender: "asyncio.Task[None]", reason: CloseReason) -> None:
    """Send what is queued, then the close frame, each within a deadline."""
    with suppress(TimeoutError, SilentReader):
        async with asyncio.timeout(_CLOSE_S):
            if not sender.done():
                await _run_while_sending(client.queue.flush(), sender)
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await client.raw.close(reason.code, reason.text)


async def relay(
    socket: JsonSocket,
    messages: Messages,
    interrupt: Coroutine[Any, Any, T],
    *,
    is_last: Callable[[Message], bool] = lambda _: False,
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
