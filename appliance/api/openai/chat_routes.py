"""POST /v1/chat/completions."""

from functools import partial
from typing import Any

from litestar import Request
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.dependencies import services_of
from appliance.api.http.fast_route import JsonAnswer, ModelRoute
from appliance.api.http.labels import labels_of
from appliance.api.http.requests import principal_of
from appliance.api.openai.answer_schemas import ChatAnswer
from appliance.api.openai.answers import chat_answer, opening
from appliance.api.openai.body_decoder import reads
from appliance.api.openai.convert import chat_ask, labels_in, shown, tier_of, wants_usage
from appliance.api.openai.schemas import ChatBody
from appliance.api.openai.stream_chunks import ChatChunks
from appliance.api.openai.stream_merge import collect_all, slowest
from appliance.api.openai.streams import StreamPlan, frames_of
from appliance.api.openapi import answers_with
from appliance.api.streaming.completion_stream import attended, report_headers, streamed
from appliance.services.completions.protocol import Completions

AnyRequest = Request[Any, Any, Any]


@ModelRoute(
    "/chat/completions",
    http_method="POST",
    status_code=200,
    opt=reads(ChatBody),
    responses=answers_with(ChatAnswer, "The answer; with `stream: true`, chunks of it."),
)
async def chat_completions(request: AnyRequest, data: JSONBody[ChatBody]) -> ASGIApp:
    """Answer a chat, whole or as a stream."""
    return await attended(request, _answer(request, data, services_of(request).completions))


async def _answer(request: AnyRequest, body: ChatBody, service: Completions) -> ASGIApp:
    ask = chat_ask(body, labels_of(request, labels_in(body)))
    with_usage = wants_usage(body)
    logprobs, legacy = body.logprobs is True, body.functions is not None
    begun = opening("chatcmpl", tier_of(body))
    start = service.start(principal_of(request), ask, shown(body))
    if body.stream:
        chunks = partial(ChatChunks, with_usage=with_usage, logprobs=logprobs, legacy=legacy)
        plan = StreamPlan(begun, chunks, shown(body), with_usage)
        return await streamed(start, partial(frames_of, request, plan), {})
    running = await start
    done = await collect_all(running)
    report = slowest(running)
    answer = chat_answer(begun.heading(report), done, logprobs=logprobs, legacy=legacy)
    return JsonAnswer(answer, report_headers(report))
