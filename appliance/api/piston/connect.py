"""/connect: a program that is followed while it runs, over a WebSocket.

The client sends `init` with the fields of /execute, and hears `runtime`, `stage`, `data` and
`exit`, or `error`; the codes of closing are Piston's. It may end the program by a `signal`.
What the program reads is `stdin` of `init`: here a program has its whole input at the start.
"""

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import structlog
from litestar import websocket
from litestar.connection import ASGIConnection
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import BaseRouteHandler

from appliance.api.http import request_context
from appliance.api.http.auth import find_credential
from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.piston import convert, run_follower
from appliance.api.piston.inbox import AnySocket, Close, Closing, Inbox
from appliance.api.piston.run_follower import Message, Messages
from appliance.domain.users import Principal
from appliance.errors import ApplianceError, Forbidden, Unauthenticated
from appliance.services.container import Services

_ERROR = Closing(4002, "Notified Error")
_FAILED = Closing(4500, "Internal Server Error")
_DONE = Closing(4999, "Job Completed")
_LAST_WORD_S = 10.0

log = structlog.get_logger()


def no_cookie(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: a browser sends its cookie along from every page, and asks nobody first."""
    credential = find_credential(connection)
    if credential is None or credential.from_cookie:
        raise Forbidden("a WebSocket needs Authorization: Bearer, or X-API-Key")


@websocket(["/connect", "/piston/connect"], guards=[no_cookie])
async def connect(
    socket: AnySocket, services: ServicesDependency, settings: SettingsDependency
) -> None:
    """Run one program, tell of it, and close."""
    principal = request_context.principal(socket.scope)
    if principal is None:
        raise Unauthenticated("credentials are missing")
    await socket.accept()
    inbox = Inbox(socket, settings.server.max_body_bytes)
    with suppress(WebSocketDisconnect):
        await socket.close(*await _served(socket, inbox, services, principal))


async def _served(
    socket: AnySocket, inbox: Inbox, services: Services, principal: Principal
) -> Closing:
    try:
        await _run(socket, inbox, services, principal)
    except Close as close:
        return close.closing
    except ApplianceError as error:
        await _tell(socket, {"type": "error", "message": error.message})
        return _ERROR
    except WebSocketDisconnect:
        raise
    except Exception:
        log.exception("a request failed", path=socket.scope["path"])
        return _FAILED
    return _DONE


async def _run(socket: AnySocket, inbox: Inbox, services: Services, principal: Principal) -> None:
    body = await inbox.init()
    offer = await services.sandbox.offer_with(principal, lambda now: convert.has(body, now))
    program = convert.program(body, offer)
    compiled = any(each.compiled for each in offer.languages if each.name == program.language)
    events = services.sandbox.events(principal, program)
    await follow(socket, inbox, run_follower.messages(events, compiled=compiled))


async def follow(socket: AnySocket, inbox: Inbox, messages: Messages) -> None:
    """Tell all of it, unless the client ends it: by a signal, by going, by a mistake."""
    exiting = asyncio.Event()
    telling = asyncio.create_task(_tell_all(socket, messages, exiting))
    hearing = asyncio.create_task(inbox.signal())
    try:
        await asyncio.wait({telling, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if exiting.is_set():  # what the client wants now comes too late
            await asyncio.wait({telling}, timeout=_LAST_WORD_S)
    finally:
        await _stopped(telling, hearing)  # what ends the telling ends the run
    if telling.cancelled():
        await _tell(socket, run_follower.killed(hearing.result()))
    else:
        telling.result()


async def _stopped(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: of two that fail at once only one is told


async def _tell_all(socket: AnySocket, messages: Messages, exiting: asyncio.Event) -> None:
    async with aclosing(messages):
        async for message in messages:
            if message["type"] == "exit":
                exiting.set()
            await _tell(socket, message)


async def _tell(socket: AnySocket, message: Message) -> None:
    await socket.send_text(msgspec.json.encode(message).decode())
