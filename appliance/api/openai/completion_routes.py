"""POST /v1/completions: a text goes on, or a gap in it is filled."""

from functools import partial
from typing import Any

from litestar import Request
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.dependencies import services_of
from appliance.api.http.fast_route import JsonAnswer, ModelRoute
from appliance.api.http.labels import labels_of
from appliance.api.http.requests import principal_of
from appliance.api.openai.answer_schemas import PlainAnswer
from appliance.api.openai.answers import opening, plain_answer
from appliance.api.openai.body_decoder import reads
from appliance.api.openai.convert import (
    completion_asks,
    drawn,
    labels_in,
    shown,
    tier_of,
    wants_usage,
)
from appliance.api.openai.schemas import CompletionBody
from appliance.api.openai.stream_chunks import PlainChunks
from appliance.api.openai.stream_merge import collect_all, slowest, start_all
from appliance.api.openai.streams import StreamPlan, frames_of
from appliance.api.openapi import answers_with
from appliance.api.streaming.completion_stream import attended, report_headers, streamed
from appliance.domain.completions import Ask
from appliance.services.completions.protocol import Completions

AnyRequest = Request[Any, Any, Any]


@ModelRoute(
    "/completions",
    http_method="POST",
    status_code=200,
    opt=reads(CompletionBody),
    responses=answers_with(PlainAnswer, "The text; with `stream: true`, pieces of it."),
)
async def completions(request: AnyRequest, data: JSONBody[CompletionBody]) -> ASGIApp:
    """Go on from a text, or with `suffix` fill the gap before it."""
    return await attended(request, _answer(request, data, services_of(request).completions))


async def _answer(request: AnyRequest, body: CompletionBody, service: Completions) -> ASGIApp:
    asks = completion_asks(body, labels_of(request, labels_in(body)))
    with_usage = wants_usage(body)
    logprobs, choices = body.logprobs is not None, drawn(body)
    echoes = [_echo(body, ask) for ask in asks]
    begun = opening("cmpl", tier_of(body))
    start = start_all(service, principal_of(request), asks, choices)
    if body.stream:
        per_choice = [echo for echo in echoes for _ in range(choices)]
        chunks = partial(PlainChunks, echoes=per_choice, with_usage=with_usage, logprobs=logprobs)
        plan = StreamPlan(begun, chunks, choices, with_usage)
        return await streamed(start, partial(frames_of, request, plan), {})
    running = await start
    done = await collect_all(running)
    report = slowest(running)
    groups = [done[at : at + choices] for at in range(0, len(done), choices)]
    answer = plain_answer(
        begun.heading(report), groups, shown(body), logprobs=logprobs, echoes=echoes
    )
    return JsonAnswer(answer, report_headers(report))


def _echo(body: CompletionBody, ask: Ask) -> str:
    return ask.raw.text if body.echo and ask.raw is not None else ""
