"""/api/v1/sandbox: runs of the caller's programs."""

from typing import Any

from litestar import Request, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import get_principal
from appliance.api.monkey import sandbox_convert
from appliance.api.monkey.sandbox_schemas import LanguagesAnswer, RunAnswer, RunBody
from appliance.api.openapi import event_stream_schema
from appliance.api.streaming.disconnect import cancel_on_disconnect
from appliance.api.streaming.sse import event_stream_response

AnyRequest = Request[Any, Any, Any]


@post("/run", status_code=200)
async def run_program(
    request: AnyRequest, data: JSONBody[RunBody], services: ServicesDependency
) -> RunAnswer:
    """Run a program and wait for its end. A disconnect ends the run.

    A program that fails is not an error of the request: see `reason` and `exit_code`.
    """
    program = sandbox_convert.convert_program(data)
    work = services.sandbox.run(get_principal(request), program)
    return sandbox_convert.run_answer(await cancel_on_disconnect(request.receive, work))


@post("/run/stream", status_code=200, responses=event_stream_schema())
async def stream_program(
    request: AnyRequest, data: JSONBody[RunBody], services: ServicesDependency
) -> Stream:
    """Run a program and stream its events: queued, started, stdout, stderr, result or error.

    If `started` has `live: false`, the output is sent at the end of the run only.
    """
    program = sandbox_convert.convert_program(data)
    events = await services.sandbox.open_events(get_principal(request), program)
    return event_stream_response(sandbox_convert.event_frames(events))


@get("/languages")
async def list_languages(
    request: AnyRequest, services: ServicesDependency, wait: FromQuery[bool] = False
) -> LanguagesAnswer:
    """List the available languages, with the limits and the isolation of runs.

    `wait=true` waits until every language has been tested.
    """
    principal = get_principal(request)
    if wait:
        return sandbox_convert.languages_answer(await services.sandbox.describe_complete(principal))
    return sandbox_convert.languages_answer(services.sandbox.describe(principal))
