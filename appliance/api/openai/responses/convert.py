"""Converts requests to completion specs: pure functions."""

from typing import NamedTuple

from msgspec.structs import replace

from appliance.api.openai.convert import parse_service_tier
from appliance.api.openai.responses.items import InputReader
from appliance.api.openai.responses.schemas import FormatBody, PromptBody, ResponseBody
from appliance.api.openai.responses.tool_choice import convert_tool_choice
from appliance.api.openai.responses.tools import ToolSet
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import OutputFormat, OutputKind, Sampling
from appliance.errors import InvalidInput

LOGPROBS = "message.output_text.logprobs"

_UNSUPPORTED = {
    "previous_response_id": "is not supported: send the whole conversation in `input`",
    "conversation": "is not supported: conversations are not stored; send all of it in `input`",
    "store": "is not supported: responses are not stored; send false or leave it out",
    "background": "is not supported; send false or leave it out",
    "prompt": "is not supported: send the text in `instructions` and `input`",
    "context_management": "is not supported; leave it out, or send truncation 'auto'",
    "moderation": "is not supported; leave it out",
}
_KINDS = {
    "text": OutputKind.TEXT,
    "json_object": OutputKind.JSON,
    "json_schema": OutputKind.SCHEMA,
}


class ConvertedRequest(NamedTuple):
    """The spec of a request, and the tools by which its calls become items."""

    spec: CompletionSpec
    tools: ToolSet


def convert_response(body: ResponseBody, labels: tuple[str, ...] = ()) -> ConvertedRequest:
    """The spec of a response. Raises InvalidInput naming the field."""
    prompt, tools = convert_prompt(body, labels)
    spec = replace(
        prompt,
        sampling=_sampling(body),
        max_tokens=body.max_output_tokens,
        priority=parse_service_tier(body.service_tier),
    )
    return ConvertedRequest(spec, tools)


def convert_prompt(body: PromptBody, labels: tuple[str, ...] = ()) -> ConvertedRequest:
    """The spec of the prompt alone, to count its tokens."""
    for field, reason in _UNSUPPORTED.items():
        if getattr(body, field, None):
            raise InvalidInput.at(field, reason)
    tools = ToolSet(body.tools or [])
    reader = InputReader(tools)
    messages = reader.read(body.instructions, body.input)
    choice, functions = convert_tool_choice(body, tools)
    spec = CompletionSpec(
        model=body.model or None,
        messages=messages,
        tools=functions,
        tool_choice=choice,
        output=_output((body.text.format if body.text else None) or reader.format),
        context_shift=body.truncation == "auto",
        labels=labels,
    )
    return ConvertedRequest(spec, tools)


def _sampling(body: ResponseBody) -> Sampling:
    return Sampling(temperature=body.temperature, top_p=body.top_p, logprobs=_logprobs(body))


def _logprobs(body: ResponseBody) -> int | None:
    requested = LOGPROBS in (body.include or []) or body.top_logprobs
    return (body.top_logprobs or 0) if requested else None


def _output(form: FormatBody | None) -> OutputFormat:
    if form is None:
        return OutputFormat()
    kind = _KINDS[form.type]
    if kind is not OutputKind.SCHEMA:
        return OutputFormat(kind)
    if form.schema is None:
        raise InvalidInput.at("text.format.schema", "is required with the type 'json_schema'")
    return OutputFormat(kind, form.schema, name=form.name or "", strict=form.strict)
