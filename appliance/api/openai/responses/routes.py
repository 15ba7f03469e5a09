"""POST /v1/responses and /v1/responses/input_tokens."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import Request, Router
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.dependencies import get_services
from appliance.api.http.fast_route import FastRoute, JsonResponse
from appliance.api.http.ignored_fields import report_ignored
from appliance.api.http.labels import read_labels
from appliance.api.http.requests import get_principal
from appliance.api.openai.errors import adapt_problem
from appliance.api.openai.responses import convert
from appliance.api.openai.responses.response_state import ResponseState
from appliance.api.openai.responses.schemas import PromptBody, ResponseBody
from appliance.api.streaming.completion_stream import (
    EventFrames,
    PendingCompletions,
    describe_stream_error,
    open_stream,
    report_headers,
    respond_unless_disconnected,
)
from appliance.errors import ProviderFailed

AnyRequest = Request[Any, Any, Any]


@FastRoute("/", http_method="POST", status_code=200)
async def create_response(request: AnyRequest, data: JSONBody[ResponseBody]) -> ASGIApp:
    """Create a response. With `stream: true`, as server-sent events while it is generated."""
    converted = convert.convert_response(
        data, read_labels(request, (data.metadata or {}).get("labels", ""))
    )
    return await respond_unless_disconnected(request, _answer(request, converted, data))


@FastRoute("/input_tokens", http_method="POST", status_code=200)
async def count_input_tokens(request: AnyRequest, data: JSONBody[PromptBody]) -> ASGIApp:
    """Count the exact tokens of a prompt, with template and tools; generates nothing."""
    converted = convert.convert_prompt(data, read_labels(request))
    return await respond_unless_disconnected(request, _count(request, converted))


def router() -> Router:
    """/v1/responses."""
    return Router(
        "/responses",
        route_handlers=[create_response, count_input_tokens],
    )


async def _answer(
    request: AnyRequest, converted: convert.ConvertedRequest, body: ResponseBody
) -> ASGIApp:
    new_state = partial(ResponseState, body, converted, created_at=int(time.time()))
    headers = report_ignored(converted.tools.ignored)
    start = get_services(request).completions.start(get_principal(request), converted.spec)
    if body.stream:
        return await open_stream(
            start,
            lambda pending: _stream_frames(request, pending, new_state, body.model or ""),
            headers,
        )
    (completion,) = await start
    state = new_state(completion.report.model)
    try:
        async for event in completion:
            _ = list(state.apply_event(event))
    finally:
        await completion.aclose()
    _require_finished(state)
    return JsonResponse(state.body, headers | report_headers(completion.report))


async def _stream_frames(
    request: AnyRequest,
    pending: PendingCompletions,
    new_state: Callable[[str], ResponseState],
    requested_model: str,
) -> EventFrames:
    """The events of a response; a failure is the last of them."""
    state = new_state(requested_model)
    try:
        (completion,) = await pending
        state = new_state(completion.report.model)
        for frame in state.start():
            yield frame
        async for event in completion:
            for frame in state.apply_event(event):
                yield frame
        _require_finished(state)
    except Exception as error:
        problem = adapt_problem(request, describe_stream_error(request, error))
        for frame in state.fail(problem):
            yield frame


def _require_finished(state: ResponseState) -> None:
    if not state.finished:
        raise ProviderFailed("the answer ended before it was complete; try again")


async def _count(request: AnyRequest, converted: convert.ConvertedRequest) -> ASGIApp:
    headers, service = report_ignored(converted.tools.ignored), get_services(request).completions
    tokens = await service.count_tokens(get_principal(request), converted.spec)
    return JsonResponse({"object": "response.input_tokens", "input_tokens": tokens}, headers)
