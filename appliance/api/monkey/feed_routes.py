"""/api/v1/events: the events of all tasks of the caller, as server-sent events or a WebSocket."""

from contextlib import aclosing
from typing import Annotated, Any

from litestar import Request, get, websocket
from litestar.params import QueryParameter
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import get_principal
from appliance.api.monkey.feed_frames import feed_frames
from appliance.api.openapi import event_stream_schema
from appliance.api.streaming.sse import event_stream_response, find_last_event_id
from appliance.api.streaming.websocket import (
    AnySocket,
    CloseReason,
    CloseReasons,
    JsonSocket,
    Messages,
    authenticate_first_message,
    relay,
    serve_session,
)
from appliance.errors import ApplianceError
from appliance.services.container import Services
from appliance.services.tasks.service import UserFeed

_CLOSE_REASONS = CloseReasons(
    complete=CloseReason(1001, "The server is shutting down"),
    refused=CloseReason(1008, "Refused; see the last message"),
    internal_error=CloseReason(1011, "Internal error"),
)
_HEARTBEAT = {"type": "heartbeat"}
_MAX_MESSAGE_BYTES = 16 * 1024  # clients send nothing but their token

AfterParameter = Annotated[int | None, QueryParameter(ge=0, le=2**63 - 1)]


@get("/events", responses=event_stream_schema())
async def user_events(
    request: Request[Any, Any, Any], services: ServicesDependency, after: AfterParameter = None
) -> Stream:
    """Stream the events of all tasks of the caller, without end.

    `after`, or the header Last-Event-ID, is the last event that the client has seen: the
    stream begins with the events since. Without one it begins now, `after=0` with the oldest
    stored event. The first frame, `connected`, has the id to resume with until another comes.
    The others are those of a task's stream, with its `task_id`; `complete` is without the
    result, which GET /api/v1/tasks/{task_id} has. `task_deleted` says that the caller deleted
    a task.

    The same path is a WebSocket: each message is a frame with its `id`, and `heartbeat` comes
    while there are none. Credentials are those of a request, `?token=`, or a first message
    `{"type": "auth", "token": "..."}`. A client that doesn't read is closed with 1013.
    """
    last_id = find_last_event_id(request, after)
    feed = await services.tasks.open_feed(get_principal(request), last_id)
    return event_stream_response(feed_frames(feed))


@websocket("/events")
async def user_events_socket(
    socket: AnySocket, services: ServicesDependency, after: AfterParameter = None
) -> None:
    """The stream of `user_events` as messages."""
    await socket.accept()
    client = JsonSocket(socket, _MAX_MESSAGE_BYTES, _HEARTBEAT)

    async def send_error(error: ApplianceError) -> None:
        problem = {"code": error.code, "message": error.message}
        await client.send({"type": "error", "error": problem})

    session = _follow(client, services, after)
    await serve_session(client, session, _CLOSE_REASONS, send_error)


async def _follow(client: JsonSocket, services: Services, after: int | None) -> None:
    principal = await authenticate_first_message(client)
    feed = await services.tasks.open_feed(principal, after)
    await relay(client, _messages(feed), client.discard_messages())


async def _messages(feed: UserFeed) -> Messages:
    async with aclosing(feed_frames(feed)) as frames:
        async for frame in frames:
            yield {**frame.data, "id": frame.id}
