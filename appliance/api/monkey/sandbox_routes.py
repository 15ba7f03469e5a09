"""/api/v1/sandbox: programs of the caller's own, run confined."""

from typing import Any

from litestar import Request, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import principal_of
from appliance.api.monkey import sandbox_convert
from appliance.api.monkey.sandbox_schemas import LanguagesAnswer, RunAnswer, RunBody
from appliance.api.openapi import answers_with_events
from appliance.api.streaming.disconnect import unless_gone
from appliance.api.streaming.sse import event_stream

AnyRequest = Request[Any, Any, Any]


@post("/run", status_code=200)
async def run_program(
    request: AnyRequest, data: JSONBody[RunBody], services: ServicesDependency
) -> RunAnswer:
    """Run a program to its end. A client that goes away ends the run.

    What the program does is never an error: it is in the answer.
    """
    program = sandbox_convert.program(data)
    work = services.sandbox.run(principal_of(request), program)
    return sandbox_convert.run_answer(await unless_gone(request, work))


@post("/run/stream", status_code=200, responses=answers_with_events())
async def stream_program(
    request: AnyRequest, data: JSONBody[RunBody], services: ServicesDependency
) -> Stream:
    """Run a program and tell of it as it goes: queued, started, stdout, stderr, result or error.

    Where `started` says `live: false`, this box can tell the output only at the end.
    """
    program = sandbox_convert.program(data)
    events = await services.sandbox.begun(principal_of(request), program)
    return event_stream(sandbox_convert.frames(events))


@get("/languages")
async def list_languages(
    request: AnyRequest, services: ServicesDependency, wait: FromQuery[bool] = False
) -> LanguagesAnswer:
    """What can be run here, under which limits, and how it is confined.

    `wait=true` answers when every language has been tried.
    """
    principal = principal_of(request)
    if wait:
        return sandbox_convert.languages_answer(await services.sandbox.known_offer(principal))
    return sandbox_convert.languages_answer(services.sandbox.offer(principal))
