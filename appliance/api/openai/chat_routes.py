"""POST /v1/chat/completions."""

from functools import partial
from typing import Any

from litestar import Request
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.body_decoder import strict_body
from appliance.api.http.dependencies import get_services
from appliance.api.http.fast_route import FastRoute, JsonResponse
from appliance.api.http.labels import read_labels
from appliance.api.http.requests import get_principal
from appliance.api.openai.answer_schemas import ChatAnswer
from appliance.api.openai.answers import begin_answer, chat_answer
from appliance.api.openai.convert import (
    chat_spec,
    choice_count,
    metadata_labels,
    response_tier,
    wants_usage,
)
from appliance.api.openai.schemas import ChatBody
from appliance.api.openai.stream_chunks import ChatChunks
from appliance.api.openai.stream_frames import StreamPlan, stream_frames
from appliance.api.openai.stream_merge import collect_all, slowest_report
from appliance.api.openapi import response_schema
from appliance.api.streaming.completion_stream import (
    open_stream,
    report_headers,
    respond_unless_disconnected,
)
from appliance.services.completions.service import CompletionService

AnyRequest = Request[Any, Any, Any]


@FastRoute(
    "/chat/completions",
    http_method="POST",
    status_code=200,
    opt=strict_body(),
    responses=response_schema(ChatAnswer, "The answer; with `stream: true`, chunks of it."),
)
async def chat_completions(request: AnyRequest, data: JSONBody[ChatBody]) -> ASGIApp:
    """Answer a chat, whole or as a stream of chunks."""
    return await respond_unless_disconnected(
        request, _answer(request, data, get_services(request).completions)
    )


async def _answer(request: AnyRequest, body: ChatBody, service: CompletionService) -> ASGIApp:
    spec = chat_spec(body, read_labels(request, metadata_labels(body)))
    with_usage = wants_usage(body)
    logprobs, legacy = body.logprobs is True, body.functions is not None
    answer_start = begin_answer("chatcmpl", response_tier(body))
    start = service.start(get_principal(request), spec, choice_count(body))
    if body.stream:
        chunks = partial(ChatChunks, with_usage=with_usage, logprobs=logprobs, legacy=legacy)
        plan = StreamPlan(answer_start, chunks, choice_count(body), with_usage)
        return await open_stream(start, partial(stream_frames, request, plan), {})
    running = await start
    done = await collect_all(running)
    report = slowest_report(running)
    answer = chat_answer(answer_start.header(report), done, logprobs=logprobs, legacy=legacy)
    return JsonResponse(answer, report_headers(report))
