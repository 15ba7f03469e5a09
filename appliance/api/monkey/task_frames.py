"""Converts journal events to stream frames: start, progress, code, complete, error."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from appliance.api.monkey.task_answers import CANCELLED_CODE, task_answer
from appliance.api.streaming.sse import Frame, Frames
from appliance.domain.tasks import EventKind, ExecuteEvent, Task, TaskEvent

# Large fields of journal events, which frames leave out.
_OMITTED_FIELDS = frozenset({"text", "content", "files", "prompt", "messages", "behaviour"})
_USAGE_FIELDS = ("prompt_tokens", "completion_tokens", "cached_tokens")


async def stream_frames(
    task_id: str, events: AsyncIterator[TaskEvent], fetch_task: Callable[[], Awaitable[Task]]
) -> Frames:
    """One frame per event. `fetch_task` gets the task for the frame with its result."""
    async for event in events:
        if event.kind == EventKind.COMPLETED:
            yield Frame(event.seq, complete_frame(await fetch_task()))
        else:
            yield Frame(event.seq, event_frame(task_id, event))


def event_frame(task_id: str, event: TaskEvent) -> Mapping[str, Any]:
    """The frame of an event other than COMPLETED."""
    if event.kind == EventKind.ACCEPTED:
        return {"type": "start", "task_id": task_id, "data": {"task_id": task_id}}
    return _FRAMES.get(event.kind, _step)(event.data)


def complete_frame(task: Task) -> Mapping[str, Any]:
    """The last frame of a completed task; `data` is what GET /tasks/{task_id} answers."""
    answer = msgspec.to_builtins(task_answer(task))
    return {"type": "complete", "result": answer.get("result"), "data": answer}


def _started(data: Mapping[str, Any]) -> Mapping[str, Any]:
    attempt = int(data.get("attempt", 1))
    message = "Started" if attempt == 1 else f"Started again (attempt {attempt})"
    return _progress(message, "started")


def _planned(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _progress("Planned the work", "planned") | {"plan": _without_texts(data)}


def _step(data: Mapping[str, Any]) -> Mapping[str, Any]:
    message, step = str(data.get("message", "")), str(data.get("step", ""))
    return _progress(message, step, data.get("percentage"))


def _text(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _progress("Writing the answer", "generating") | {"text": data.get("content", "")}


def _candidate(data: Mapping[str, Any]) -> Mapping[str, Any]:
    branch = _without_texts(data)
    if "usage" in data:
        branch["usage"] = {name: data["usage"].get(name, 0) for name in _USAGE_FIELDS}
    return _progress("Generated a candidate", "candidate") | {"branch": branch}


def _verdict(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _progress("Verified a candidate", "verdict") | {"branch": _without_texts(data)}


def _code(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "code", "content": data.get("content", "")}


def _failed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return _error(str(data.get("code", "INTERNAL_ERROR")), str(data.get("message", "")))


def _cancelled(_: Mapping[str, Any]) -> Mapping[str, Any]:
    return _error(CANCELLED_CODE, "The task was cancelled")


def _progress(message: str, step: str, percentage: float | None = None) -> dict[str, Any]:
    """`percentage` is null if unknown."""
    progress = {"step": step, "percentage": percentage}
    return {"type": "progress", "message": message, "progress": progress}


def _error(code: str, message: str) -> Mapping[str, Any]:
    return {"type": "error", "error": {"code": code, "message": message}}


def _without_texts(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in _OMITTED_FIELDS}


_FRAMES: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    EventKind.STARTED: _started,
    ExecuteEvent.PLANNED: _planned,
    EventKind.PROGRESS: _step,
    ExecuteEvent.TEXT: _text,
    ExecuteEvent.CANDIDATE: _candidate,
    ExecuteEvent.VERDICT: _verdict,
    ExecuteEvent.CODE: _code,
    EventKind.FAILED: _failed,
    EventKind.CANCELLED: _cancelled,
}
