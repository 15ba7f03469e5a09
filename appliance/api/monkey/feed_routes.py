"""/api/v1/events: the events of all tasks of the caller."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import get_principal
from appliance.api.monkey.feed_frames import feed_frames
from appliance.api.openapi import event_stream_schema
from appliance.api.streaming.sse import event_stream_response, find_last_event_id

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
    """
    last_id = find_last_event_id(request, after)
    feed = await services.tasks.open_feed(get_principal(request), last_id)
    return event_stream_response(feed_frames(feed))
