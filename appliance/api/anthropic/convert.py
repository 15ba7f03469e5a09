"""Converts requests to completion specs: pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from appliance.api.anthropic.blocks import convert_messages
from appliance.api.anthropic.schemas import CountBody, MessagesBody, OutputConfigBody
from appliance.api.anthropic.tools import convert_tool_choice, convert_tools
from appliance.api.http.ignored_fields import IgnoredField
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import OutputFormat, OutputKind, Sampling
from appliance.errors import InvalidInput


class ConvertedRequest(NamedTuple):
    """The spec of a request, and the fields that were left out."""

    spec: CompletionSpec
    ignored: Sequence[IgnoredField]


def convert_message(body: MessagesBody, labels: tuple[str, ...] = ()) -> ConvertedRequest:
    """The spec of a message. Raises InvalidInput naming the field."""
    prompt, ignored = convert_prompt(body, labels)
    spec = replace(prompt, sampling=_sampling(body), max_tokens=body.max_tokens)
    return ConvertedRequest(spec, ignored)


def convert_prompt(body: CountBody, labels: tuple[str, ...] = ()) -> ConvertedRequest:
    """The spec of the prompt alone, to count its tokens."""
    _refuse_unsupported(body)
    ignored: list[IgnoredField] = []
    tools = convert_tools(body.tools or (), ignored)
    spec = CompletionSpec(
        model=body.model,
        messages=convert_messages(body.system, body.messages, ignored),
        tools=tools,
        tool_choice=convert_tool_choice(body.tool_choice, tools),
        output=_output(body.output_config),
        labels=labels,
    )
    return ConvertedRequest(spec, ignored)


def _refuse_unsupported(body: CountBody) -> None:
    if body.thread is not None:
        raise _no_threads()
    if body.container is not None:
        raise InvalidInput.at("container", "is not supported; leave it out")
    if body.mcp_servers:
        raise InvalidInput.at("mcp_servers", "is not supported; send the tools in `tools`")


def _no_threads() -> InvalidInput:
    """The error that makes the official package send whole conversations instead."""
    refused = InvalidInput.at(
        "thread", "is not supported: conversations are not stored; send all of it in `messages`"
    )
    refused.details |= {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return refused


def _sampling(body: MessagesBody) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
    )


def _output(config: OutputConfigBody | None) -> OutputFormat:
    form = config.format if config else None
    if form is None:
        return OutputFormat()
    return OutputFormat(OutputKind.SCHEMA, form.schema, strict=True)
