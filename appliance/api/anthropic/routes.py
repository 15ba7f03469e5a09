"""Every route of this dialect."""

from typing import Any

from litestar import Request, Router
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.anthropic import answers, convert
from appliance.api.anthropic.errors import PREFIX, REQUEST_ID
from appliance.api.anthropic.frames import PING, frames_of
from appliance.api.anthropic.schemas import CountAnswer, CountBody, MessageAnswer, MessagesBody
from appliance.api.http.auth import authenticated
from appliance.api.http.dependencies import services_of
from appliance.api.http.fast_route import JsonAnswer, ModelRoute
from appliance.api.http.labels import labels_of
from appliance.api.http.request_context import request_id
from appliance.api.http.requests import principal_of
from appliance.api.openapi import answers_with
from appliance.api.streaming.completion_stream import attended, report_headers, streamed
from appliance.domain.completions import Ask

AnyRequest = Request[Any, Any, Any]


@ModelRoute(
    "/",
    http_method="POST",
    status_code=200,
    responses=answers_with(MessageAnswer, "The model's turn."),
)
async def create_message(request: AnyRequest, data: JSONBody[MessagesBody]) -> ASGIApp:
    """The model's next turn. With `stream: true`, as server-sent events while it is made."""
    ask = convert.message_ask(data, labels_of(request))
    return await attended(request, _answer(request, ask, data))


@ModelRoute(
    "/count_tokens",
    http_method="POST",
    status_code=200,
    responses=answers_with(CountAnswer, "The count."),
)
async def count_tokens(request: AnyRequest, data: JSONBody[CountBody]) -> ASGIApp:
    """The exact tokens of a prompt, template and tools included; nothing is generated."""
    ask = convert.count_ask(data, labels_of(request))
    return await attended(request, _count(request, ask))


def router() -> Router:
    """/v1/messages."""
    return Router(
        PREFIX,
        route_handlers=[create_message, count_tokens],
        guards=[authenticated],
        tags=["Anthropic-compatible"],
    )


async def _answer(request: AnyRequest, ask: Ask, body: MessagesBody) -> ASGIApp:
    start = services_of(request).completions.start(principal_of(request), ask)
    if body.stream:
        return await streamed(
            start,
            lambda starting: frames_of(request, starting, body.max_tokens),
            _own_header(request),
            heartbeat=PING.encode(),
        )
    (completion,) = await start
    try:
        message = await answers.whole_message(completion, body.max_tokens)
    finally:
        await completion.aclose()
    return JsonAnswer(message, _own_header(request) | report_headers(completion.report))


async def _count(request: AnyRequest, ask: Ask) -> ASGIApp:
    tokens = await services_of(request).completions.count_tokens(principal_of(request), ask)
    return JsonAnswer(CountAnswer(tokens), _own_header(request))


def _own_header(request: AnyRequest) -> dict[str, str]:
    return {REQUEST_ID: request_id(request.scope)}
