"""The routes of this dialect."""

from typing import Any

from litestar import Request, Router
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.anthropic import answers, convert
from appliance.api.anthropic.errors import PREFIX, REQUEST_ID
from appliance.api.anthropic.frames import PING, stream_frames
from appliance.api.anthropic.schemas import CountAnswer, CountBody, MessageAnswer, MessagesBody
from appliance.api.http.dependencies import get_services
from appliance.api.http.fast_route import FastRoute, JsonResponse
from appliance.api.http.ignored_fields import report_ignored
from appliance.api.http.labels import read_labels
from appliance.api.http.request_context import request_id
from appliance.api.http.requests import get_principal
from appliance.api.openapi import response_schema
from appliance.api.streaming.completion_stream import (
    open_stream,
    report_headers,
    respond_unless_disconnected,
)

AnyRequest = Request[Any, Any, Any]


@FastRoute(
    "/",
    http_method="POST",
    status_code=200,
    responses=response_schema(MessageAnswer, "The model's turn."),
)
async def create_message(request: AnyRequest, data: JSONBody[MessagesBody]) -> ASGIApp:
    """Create the model's next turn. With `stream: true`, as server-sent events."""
    converted = convert.convert_message(data, read_labels(request))
    return await respond_unless_disconnected(request, _answer(request, converted, data))


@FastRoute(
    "/count_tokens",
    http_method="POST",
    status_code=200,
    responses=response_schema(CountAnswer, "The count."),
)
async def count_tokens(request: AnyRequest, data: JSONBody[CountBody]) -> ASGIApp:
    """Count the exact tokens of a prompt, with template and tools; generates nothing."""
    converted = convert.convert_prompt(data, read_labels(request))
    return await respond_unless_disconnected(request, _count(request, converted))


def router() -> Router:
    """The router of /v1/messages."""
    return Router(
        PREFIX,
        route_handlers=[create_message, count_tokens],
        tags=["Anthropic-compatible"],
    )


async def _answer(
    request: AnyRequest, converted: convert.ConvertedRequest, body: MessagesBody
) -> ASGIApp:
    headers = _common_headers(request, converted)
    start = get_services(request).completions.start(get_principal(request), converted.spec)
    if body.stream:
        return await open_stream(
            start,
            lambda pending: stream_frames(request, pending, body.max_tokens),
            headers,
            heartbeat=PING.encode(),
        )
    (completion,) = await start
    try:
        message = await answers.collect_message(completion, body.max_tokens)
    finally:
        await completion.aclose()
    return JsonResponse(message, headers | report_headers(completion.report))


async def _count(request: AnyRequest, converted: convert.ConvertedRequest) -> ASGIApp:
    headers, service = _common_headers(request, converted), get_services(request).completions
    tokens = await service.count_tokens(get_principal(request), converted.spec)
    return JsonResponse(CountAnswer(tokens), headers)


def _common_headers(request: AnyRequest, converted: convert.ConvertedRequest) -> dict[str, str]:
    return {REQUEST_ID: request_id(request.scope), **report_ignored(converted.ignored)}
