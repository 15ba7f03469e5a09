"""/api/v1/tasks: what became of a task, and what is happening to it."""

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import principal_of
from appliance.api.monkey import answers
from appliance.api.monkey.execute_routes import task_stream
from appliance.api.monkey.schemas import ExecuteAnswer, TaskListAnswer
from appliance.api.openapi import answers_with_events
from appliance.api.streaming.sse import last_event_id
from appliance.domain.tasks import TaskStatus
from appliance.errors import InvalidInput

AnyRequest = Request[Any, Any, Any]


@get("/")
async def list_tasks(
    request: AnyRequest,
    services: ServicesDependency,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    cursor: FromQuery[str | None] = None,
    status: FromQuery[str | None] = None,
) -> TaskListAnswer:
    """The caller's tasks, newest first; `next_cursor` leads to the next page."""
    wanted = _status(status) if status else None
    page = await services.tasks.list(
        principal_of(request), limit=limit, cursor=cursor, status=wanted
    )
    return answers.task_list(page.tasks, page.next_cursor)


@get("/{task_id:str}")
async def get_task(
    request: AnyRequest, services: ServicesDependency, task_id: FromPath[str]
) -> ExecuteAnswer:
    """One task, with its result once it has ended."""
    return answers.execute_answer(await services.tasks.get(principal_of(request), task_id))


@post("/{task_id:str}/cancel", status_code=200)
async def cancel_task(
    request: AnyRequest, services: ServicesDependency, task_id: FromPath[str]
) -> ExecuteAnswer:
    """End a task that waits or runs."""
    return answers.execute_answer(await services.tasks.cancel(principal_of(request), task_id))


@get("/{task_id:str}/events", responses=answers_with_events())
async def task_events(
    request: AnyRequest,
    services: ServicesDependency,
    task_id: FromPath[str],
    after: Annotated[int | None, QueryParameter(ge=0, le=2**63 - 1)] = None,
) -> Response[Any]:
    """A task's steps as a stream: all so far, then as they happen.

    `after`, or the header Last-Event-ID, is the last event that the client has seen.
    Where a finished task has nothing more to tell, 204 stops a browser from asking again.
    """
    principal = principal_of(request)
    seen = last_event_id(request, after)
    task = await services.tasks.get(principal, task_id)
    if seen and task.status.final and await _nothing_left(request, services, task_id, seen):
        return Response(None, status_code=204)
    return task_stream(services, principal, task, seen)


async def _nothing_left(
    request: AnyRequest, services: ServicesDependency, task_id: str, seen: int
) -> bool:
    async for _ in services.tasks.events(principal_of(request), task_id, seen):
        return False
    return True


def _status(name: str) -> TaskStatus:
    found = answers.status_named(name)
    if found is None:
        allowed = list(answers.STATUS.values())
        raise InvalidInput(
            f"status: Must be one of: {', '.join(allowed)}",
            details={"field": "status", "allowed": allowed},
        )
    return found
