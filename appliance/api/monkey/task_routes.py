"""/api/v1/execute and /api/v1/tasks: submit coding tasks, follow, list, cancel and delete them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.http.errors import status_for_code
from appliance.api.http.ignored_fields import find_unknown_fields, report_ignored
from appliance.api.http.labels import read_labels
from appliance.api.http.requests import get_principal
from appliance.api.monkey import task_answers, task_names
from appliance.api.monkey.schemas import ExecuteAnswer, ExecuteBody, TaskAnswer, TaskListAnswer
from appliance.api.monkey.task_convert import task_request
from appliance.api.monkey.task_frames import stream_frames
from appliance.api.openapi import event_stream_schema, response_schema
from appliance.api.streaming.sse import event_stream_response, find_last_event_id
from appliance.config.settings import Settings
from appliance.domain.tasks import (
    Task,
    TaskEvent,
    TaskOrigin,
    TaskRequest,
    TaskStatus,
)
from appliance.domain.users import Principal
from appliance.errors import ApplianceError, InvalidInput
from appliance.services.container import Services

AnyRequest = Request[Any, Any, Any]
TaskOwner = Annotated[
    str | None,
    QueryParameter(max_length=256, description="The owner's username; for administrators only."),
]

# Failures of the server or of the model are outcomes of a task: the answer is 200 with `error`.
_OUTCOMES = frozenset({500, 502})


@post("/execute", status_code=200, responses=response_schema(ExecuteAnswer, "The task, ended."))
async def execute(
    request: AnyRequest,
    data: JSONBody[ExecuteBody],
    services: ServicesDependency,
    settings: SettingsDependency,
) -> Response[Any]:
    """Run a task and wait for its end. With `stream: true`, the answer is a stream of events.

    If the client disconnects, the task continues; GET /api/v1/tasks/{task_id} has its result.
    """
    if data.stream:
        return await _submit_and_stream(request, data, services)
    principal = get_principal(request)
    body = _convert_body(request, data)
    task = await services.tasks.submit(principal, body, TaskOrigin.MONKEY)
    timeout_s = _wait_timeout(body, settings)
    ended = await services.tasks.wait(principal, task.public_id, timeout_s)
    _raise_rejection(ended)
    headers = report_ignored(await find_unknown_fields(request, ExecuteBody))
    return Response(task_answers.execute_answer(ended), headers=headers)


@post(["/execute/stream", "/stream/execute"], status_code=200, responses=event_stream_schema())
async def execute_stream(
    request: AnyRequest, data: JSONBody[ExecuteBody], services: ServicesDependency
) -> Stream:
    """Run a task and stream its events: start, progress, code, complete, error."""
    return await _submit_and_stream(request, data, services)


@get("/")
async def list_tasks(
    request: AnyRequest,
    services: ServicesDependency,
    *,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    cursor: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
    kind: FromQuery[str | None] = None,
    origin: FromQuery[str | None] = None,
) -> TaskListAnswer:
    """List the caller's tasks, newest first; `next_cursor` is the cursor of the next page.

    `origin` is the API that a task was submitted to.
    """
    filter_status = _parse_status(status) if status else None
    page = await services.tasks.list(
        get_principal(request),
        limit=limit,
        cursor=cursor,
        status=filter_status,
        kind=task_names.parse_kind(kind) if kind else None,
        origin=task_names.parse_origin(origin) if origin else None,
    )
    return task_answers.task_list(page.tasks, page.next_cursor)


@get("/{task_id:str}")
async def get_task(
    request: AnyRequest,
    services: ServicesDependency,
    task_id: FromPath[str],
    user: TaskOwner = None,
) -> ExecuteAnswer | TaskAnswer:
    """Get a task, with its result once it has ended."""
    task = await services.tasks.get(get_principal(request), task_id, user)
    return task_answers.task_answer(task)


@post("/{task_id:str}/cancel", status_code=200)
async def cancel_task(
    request: AnyRequest,
    services: ServicesDependency,
    task_id: FromPath[str],
    user: TaskOwner = None,
) -> ExecuteAnswer | TaskAnswer:
    """Cancel a task that is queued or running."""
    task = await services.tasks.cancel(get_principal(request), task_id, user)
    return task_answers.task_answer(task)


@delete("/{task_id:str}", status_code=204)
async def delete_task(
    request: AnyRequest,
    services: ServicesDependency,
    task_id: FromPath[str],
    user: TaskOwner = None,
) -> None:
    """Delete a task that has ended, with its events."""
    await services.tasks.delete(get_principal(request), task_id, user)


@get("/{task_id:str}/events", responses=event_stream_schema())
async def task_events(
    request: AnyRequest,
    services: ServicesDependency,
    task_id: FromPath[str],
    after: Annotated[int | None, QueryParameter(ge=0, le=2**63 - 1)] = None,
    user: TaskOwner = None,
) -> Response[Any]:
    """Stream the events of a task: past ones first, then live.

    `after`, or the header Last-Event-ID, is the last event that the client has seen. If a
    finished task has no later events, the answer is 204, which stops a browser's retries.
    """
    principal = get_principal(request)
    last_id = find_last_event_id(request, after) or 0
    task = await services.tasks.get(principal, task_id, user)
    if last_id and task.status.final:
        later = services.tasks.events(principal, task_id, last_id, user)
        if await _is_exhausted(later):
            return Response(None, status_code=204)
    return _task_stream(services, principal, task, last_id, user)


def _task_stream(
    services: Services, principal: Principal, task: Task, after: int, owner: str | None = None
) -> Stream:
    """The events of a task after number `after`, as frames."""
    identity = task.public_id
    events = services.tasks.events(principal, identity, after, owner)
    return event_stream_response(
        stream_frames(identity, events, lambda: services.tasks.get(principal, identity, owner))
    )


async def _submit_and_stream(request: AnyRequest, data: ExecuteBody, services: Services) -> Stream:
    principal = get_principal(request)
    body = _convert_body(request, data)
    task = await services.tasks.submit(principal, body, TaskOrigin.MONKEY)
    # With an id of the client, a repeated request continues the stream of the same task.
    after = (find_last_event_id(request) or 0) if data.task_id else 0
    stream = _task_stream(services, principal, task, after)
    stream.headers.update(report_ignored(await find_unknown_fields(request, ExecuteBody)))
    return stream


def _convert_body(request: AnyRequest, data: ExecuteBody) -> TaskRequest:
    return task_request(data, labels=read_labels(request))


def _wait_timeout(body: TaskRequest, settings: Settings) -> float:
    """Time to wait for the end: the time limit of the task, once for the queue and once to run."""
    return 2 * (body.timeout_s or settings.scheduler.task_timeout_s)


def _raise_rejection(task: Task) -> None:
    """Raise the failure of a task if it is an error of the request."""
    failure = task.failure
    if failure is None or status_for_code(failure.code) in _OUTCOMES:
        return
    error = ApplianceError(failure.message, details=failure.details | {"task_id": task.public_id})
    error.code = failure.code
    raise error


async def _is_exhausted(events: AsyncGenerator[TaskEvent, None]) -> bool:
    async with aclosing(events):
        async for _ in events:
            return False
    return True


def _parse_status(name: str) -> TaskStatus:
    status = task_answers.parse_status(name)
    if status is None:
        allowed = list(task_answers.STATUS_NAMES.values())
        raise InvalidInput(
            f"status: must be one of: {', '.join(allowed)}",
            details={"field": "status", "allowed": allowed},
        )
    return status
