"""POST /v1/completions: continues a text, or fills a gap in it."""

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
from appliance.api.openai.answer_schemas import PlainAnswer
from appliance.api.openai.answers import begin_answer, plain_answer
from appliance.api.openai.convert import (
    choice_count,
    completion_specs,
    metadata_labels,
    response_tier,
    sample_count,
    wants_usage,
)
from appliance.api.openai.schemas import CompletionBody
from appliance.api.openai.stream_chunks import PlainChunks
from appliance.api.openai.stream_frames import StreamPlan, stream_frames
from appliance.api.openai.stream_merge import collect_all, slowest_report, start_all
from appliance.api.openapi import response_schema
from appliance.api.streaming.completion_stream import (
    open_stream,
    report_headers,
    respond_unless_disconnected,
)
from appliance.domain.completions import CompletionSpec
from appliance.services.completions.service import CompletionService

AnyRequest = Request[Any, Any, Any]


@FastRoute(
    "/completions",
    http_method="POST",
    status_code=200,
    opt=strict_body(),
    responses=response_schema(PlainAnswer, "The text; with `stream: true`, pieces of it."),
)
async def completions(request: AnyRequest, data: JSONBody[CompletionBody]) -> ASGIApp:
    """Continue a text, or with `suffix` fill the gap before it."""
    return await respond_unless_disconnected(
        request, _answer(request, data, get_services(request).completions)
    )


async def _answer(request: AnyRequest, body: CompletionBody, service: CompletionService) -> ASGIApp:
    specs = completion_specs(body, read_labels(request, metadata_labels(body)))
    with_usage = wants_usage(body)
    logprobs, choices = body.logprobs is not None, sample_count(body)
    echoes = [_echo(body, spec) for spec in specs]
    answer_start = begin_answer("cmpl", response_tier(body))
    start = start_all(service, get_principal(request), specs, choices)
    if body.stream:
        per_choice = [echo for echo in echoes for _ in range(choices)]
        chunks = partial(PlainChunks, echoes=per_choice, with_usage=with_usage, logprobs=logprobs)
        plan = StreamPlan(answer_start, chunks, choices, with_usage)
        return await open_stream(start, partial(stream_frames, request, plan), {})
    running = await start
    done = await collect_all(running)
    report = slowest_report(running)
    groups = [done[at : at + choices] for at in range(0, len(done), choices)]
    answer = plain_answer(
        answer_start.header(report), groups, choice_count(body), logprobs=logprobs, echoes=echoes
    )
    return JsonResponse(answer, report_headers(report))


def _echo(body: CompletionBody, spec: CompletionSpec) -> str:
    return spec.raw.text if body.echo and spec.raw is not None else ""
