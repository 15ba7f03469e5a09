"""Every route below /v1/responses."""

from typing import Any

from litestar import Request, Router
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.auth import authenticated
from appliance.api.http.dependencies import services_of
from appliance.api.http.dialect import Dialect
from appliance.api.http.fast_route import JsonAnswer, ModelRoute
from appliance.api.http.labels import labels_of
from appliance.api.http.requests import principal_of
from appliance.api.openai.responses import convert
from appliance.api.openai.responses.response_state import Made
from appliance.api.openai.responses.schemas import PromptBody, ResponseBody
from appliance.api.openai.vendor_errors import headers, render
from appliance.api.streaming.completion_stream import (
    EventFrames,
    Starting,
    attended,
    problem_within,
    report_headers,
    streamed,
)
from appliance.domain.completions import Ask
from appliance.errors import ProviderFailed

PREFIX = "/v1/responses"
DIALECT = Dialect(PREFIX, render, headers)

AnyRequest = Request[Any, Any, Any]


@ModelRoute("/", http_method="POST", status_code=200)
async def create_response(request: AnyRequest, data: JSONBody[ResponseBody]) -> ASGIApp:
    """The model's response. With `stream: true`, as server-sent events while it is made."""
    ask = convert.response_ask(data, labels_of(request, (data.metadata or {}).get("labels", "")))
    return await attended(request, _answer(request, ask, data))


@ModelRoute("/input_tokens", http_method="POST", status_code=200)
async def count_input_tokens(request: AnyRequest, data: JSONBody[PromptBody]) -> ASGIApp:
    """The exact tokens of a prompt, template and tools included; nothing is generated."""
    ask = convert.prompt_ask(data, labels_of(request))
    return await attended(request, _count(request, ask))


def router() -> Router:
    """/v1/responses."""
    return Router(
        PREFIX,
        route_handlers=[create_response, count_input_tokens],
        guards=[authenticated],
        tags=["OpenAI-compatible"],
    )


async def _answer(request: AnyRequest, ask: Ask, body: ResponseBody) -> ASGIApp:
    start = services_of(request).completions.start(principal_of(request), ask)
    if body.stream:
        return await streamed(start, lambda starting: _frames(request, starting, ask, body), {})
    (completion,) = await start
    made = Made(body, ask, completion.report.model)
    try:
        async for event in completion:
            _ = list(made.advance(event))
    finally:
        await completion.aclose()
    _check(made)
    return JsonAnswer(made.body, report_headers(completion.report))


async def _frames(
    request: AnyRequest, starting: Starting, ask: Ask, body: ResponseBody
) -> EventFrames:
    """All events; a failure on the way is the last of them."""
    made = Made(body, ask, body.model or "")
    try:
        (completion,) = await starting
        made = Made(body, ask, completion.report.model)
        for frame in made.start():
            yield frame
        async for event in completion:
            for frame in made.advance(event):
                yield frame
        _check(made)
    except Exception as error:
        for frame in made.fail(problem_within(request, error)):
            yield frame


def _check(made: Made) -> None:
    if not made.finished:
        raise ProviderFailed("the answer ended before it was complete")


async def _count(request: AnyRequest, ask: Ask) -> ASGIApp:
    tokens = await services_of(request).completions.count_tokens(principal_of(request), ask)
    return JsonAnswer({"object": "response.input_tokens", "input_tokens": tokens})
