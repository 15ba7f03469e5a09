"""Converts the events of a user's feed to frames: those of task streams, with the task's id."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from appliance.api.monkey.task_frames import event_frame
from appliance.api.streaming.sse import Frame, Frames
from appliance.domain.tasks import EventKind
from appliance.domain.user_events import UserEvent
from appliance.services.tasks.service import UserFeed


async def feed_frames(feed: UserFeed) -> Frames:
    """`connected` with the number after which the feed begins, then one frame per event."""
    yield Frame(feed.start, {"type": "connected", "after": feed.start})
    async with aclosing(feed.events):
        async for event in feed.events:
            yield Frame(event.seq, feed_frame(event))


def feed_frame(event: UserEvent) -> Mapping[str, Any]:
    """The frame of an event. That of a completed task is without its result."""
    task_event = event.task_event()
    if task_event is None or event.task_public_id is None:
        return {"type": event.kind, **event.data}
    if task_event.kind == EventKind.COMPLETED:
        return {"type": "complete", "task_id": event.task_public_id}
    return {**event_frame(event.task_public_id, task_event), "task_id": event.task_public_id}
