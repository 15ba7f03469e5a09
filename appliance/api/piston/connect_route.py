"""/connect: a WebSocket that follows a program while it runs.

The client sends `init` with the fields of /execute and receives `runtime`, `stage`, `data`
and `exit`, or `error`; the close codes are Piston's. It can end the program with `signal`.
All input of the program is `stdin` of `init`.
"""

from litestar import websocket

from appliance.api.http import request_context
from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.piston import convert, run_follower
from appliance.api.piston.client_messages import receive_init, receive_signal
from appliance.api.streaming.websocket import (
    AnySocket,
    CloseReason,
    CloseReasons,
    JsonSocket,
    Message,
    Messages,
    relay,
    serve_session,
)
from appliance.domain.users import Principal
from appliance.errors import ApplianceError, Unauthenticated
from appliance.services.container import Services

# Piston's codes and texts.
_CLOSE_REASONS = CloseReasons(
    complete=CloseReason(4999, "Job Completed"),
    refused=CloseReason(4002, "Notified Error"),
    internal_error=CloseReason(4500, "Internal Server Error"),
)


@websocket(["/connect", "/piston/connect"])
async def connect(
    socket: AnySocket, services: ServicesDependency, settings: SettingsDependency
) -> None:
    """Run one program, send its output, and close."""
    principal = request_context.principal(socket.scope)
    if principal is None:
        raise Unauthenticated("credentials are missing")
    await socket.accept()
    limits = settings.server
    client = JsonSocket(socket, min(limits.websocket_message_bytes, limits.max_body_bytes))

    async def send_error(error: ApplianceError) -> None:
        await client.send({"type": "error", "message": error.message})

    session = _run_program(client, services, principal)
    await serve_session(client, session, _CLOSE_REASONS, send_error)


async def _run_program(client: JsonSocket, services: Services, principal: Principal) -> None:
    body = await receive_init(client)
    capabilities = await services.sandbox.describe_sufficient(
        principal, lambda now: convert.has_runtime(body, now)
    )
    program = convert.convert_program(body, capabilities)
    compiled = any(
        each.compiled for each in capabilities.languages if each.name == program.language
    )
    events = services.sandbox.events(principal, program)
    await follow_run(client, run_follower.stream_messages(events, compiled=compiled))


async def follow_run(client: JsonSocket, messages: Messages) -> None:
    """Send `messages` until the run ends or the client ends it: by a signal, or by leaving."""
    signal = await relay(client, messages, receive_signal(client), is_last=_is_exit)
    if signal is not None:
        await client.send(run_follower.killed_message(signal))


def _is_exit(message: Message) -> bool:
    return message["type"] == "exit"
