"""POST /api/v1/execute and its streams: a coding task in, the verified answer out."""

from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.http.errors import status_of
from appliance.api.http.labels import labels_of
from appliance.api.http.requests import principal_of
from appliance.api.monkey import answers
from appliance.api.monkey.convert import task_request
from appliance.api.monkey.frames import frames_of
from appliance.api.monkey.schemas import ExecuteAnswer, ExecuteBody
from appliance.api.openapi import answers_with, answers_with_events
from appliance.api.streaming.sse import event_stream, last_event_id
from appliance.config.settings import Settings
from appliance.domain.tasks import Task, TaskRequest
from appliance.domain.users import Principal
from appliance.errors import ApplianceError
from appliance.services.container import Services

AnyRequest = Request[Any, Any, Any]

# A failure of the box or of the model is an outcome of the task, and answered as one.
_OUTCOMES = frozenset({500, 502})


@post("/execute", status_code=200, responses=answers_with(ExecuteAnswer, "The task, ended."))
async def execute(
    request: AnyRequest,
    data: JSONBody[ExecuteBody],
    services: ServicesDependency,
    settings: SettingsDependency,
) -> Response[Any]:
    """Run a task and wait for its end. With `stream: true`, answer as the streams do.

    A client that goes away loses nothing: the task goes on, and its id finds it.
    """
    if data.stream:
        return await _stream(request, data, services)
    principal = principal_of(request)
    task = await services.tasks.submit(principal, _asked(request, data))
    ended = await services.tasks.wait(principal, task.public_id, _patience(task, settings))
    _raise_refusal(ended)
    return Response(answers.execute_answer(ended))


@post(["/execute/stream", "/stream/execute"], status_code=200, responses=answers_with_events())
async def execute_stream(
    request: AnyRequest, data: JSONBody[ExecuteBody], services: ServicesDependency
) -> Stream:
    """Run a task and tell its steps as they happen: start, progress, code, complete, error."""
    return await _stream(request, data, services)


def task_stream(services: Services, principal: Principal, task: Task, after: int) -> Stream:
    """The frames of a task's journal from `after` on, to its end."""
    identity = task.public_id
    events = services.tasks.events(principal, identity, after)
    return event_stream(
        frames_of(identity, events, lambda: services.tasks.get(principal, identity))
    )


async def _stream(request: AnyRequest, data: ExecuteBody, services: Services) -> Stream:
    principal = principal_of(request)
    task = await services.tasks.submit(principal, _asked(request, data))
    # Only an id that the client chose makes a second request mean the same task.
    after = last_event_id(request) if data.task_id else 0
    return task_stream(services, principal, task, after)


def _asked(request: AnyRequest, data: ExecuteBody) -> TaskRequest:
    return task_request(data, labels=labels_of(request))


def _patience(task: Task, settings: Settings) -> float:
    """As long for its turn as for its run."""
    return 2 * (task.request.timeout_s or settings.scheduler.task_timeout_s)


def _raise_refusal(task: Task) -> None:
    """For a task that failed for a reason which is the answer to its request."""
    failure = task.failure
    if failure is None or status_of(failure.code) in _OUTCOMES:
        return
    error = ApplianceError(failure.message, details=failure.details | {"task_id": task.public_id})
    error.code = failure.code
    raise error
