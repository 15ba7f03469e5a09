"""Invalid completion requests are rejected, by field, before an engine gets them."""

from typing import Any

import pytest

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.supervision.validation import validate_completion

_USER = Message(MessageRole.USER, "x")
_DEPTH = 5000


def _request(**more: Any) -> CompletionRequest:
    fields: dict[str, Any] = {"messages": (_USER,), **more}
    return CompletionRequest("tiny", **fields)


def _nested() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(_DEPTH):
        schema = {"items": schema}
    return schema


def _sampled(**more: Any) -> CompletionRequest:
    return _request(sampling=Sampling(**more))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_sampled(frequency_penalty=2.1), "frequency_penalty"),
        (_sampled(presence_penalty=float("nan")), "presence_penalty"),
        (_sampled(logprobs=21), "logprobs"),
        (_sampled(logprobs=-1), "logprobs"),
        (_sampled(logit_bias=((1, 101.0),)), "logit_bias"),
        (_sampled(logit_bias=((-1, 1.0),)), "logit_bias"),
        (_sampled(logit_bias=((2**31, 1.0),)), "logit_bias"),
        (_sampled(logit_bias=((1, 1.0), (1, 2.0))), "logit_bias"),
        (_sampled(logit_bias=tuple((token, 1.0) for token in range(2000))), "logit_bias"),
        (_request(messages=()), "messages"),
        (_request(raw=RawPrompt("x")), "messages"),
        (_request(messages=(), raw=RawPrompt("x"), tools=(Tool("f"),)), "tools"),
        (_request(messages=(), raw=RawPrompt("\ud800")), "prompt"),
        (_request(messages=(), raw=RawPrompt("x", "\ud800")), "suffix"),
        (_request(tools=(Tool("a b"),)), "tools[0].name"),
        (_request(tools=(Tool(""),)), "tools[0].name"),
        (_request(tools=(Tool("f"), Tool("f"))), "tools[1].name"),
        (_request(tools=(Tool("f", "\ud800"),)), "tools[0].description"),
        (_request(tools=(Tool("f", "", _nested()),)), "tools[0].parameters"),
        (_request(tools=tuple(Tool(f"f{at}") for at in range(300))), "tools"),
        (_request(tool_choice=ToolChoice(ToolUse.REQUIRED)), "tool_choice"),
        (_request(tools=(Tool("f"),), tool_choice=ToolChoice(name="g")), "tool_choice"),
        (_request(messages=(Message(MessageRole.USER, "", (ToolCall("i", "f", ""),)),)),
         "messages[0].tool_calls"),
        (_request(messages=(Message(MessageRole.ASSISTANT, "", (ToolCall("i", "f", "\ud800"),)),)),
         "messages[0].tool_calls[0]"),
        (_request(output=OutputFormat(OutputKind.SCHEMA)), "output.schema"),
        (_request(output=OutputFormat(OutputKind.SCHEMA, schema={"a": "\ud800"})), "output.schema"),
        (_request(output=OutputFormat(OutputKind.GRAMMAR, grammar=" ")), "output.grammar"),
    ],
)  # fmt: skip
def test_request_when_a_field_is_senseless_then_refused_by_its_name(
    request_: CompletionRequest, field: str
):
    with pytest.raises(InvalidInput) as caught:
        validate_completion(request_)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "request_",
    [
        _sampled(frequency_penalty=-2, presence_penalty=2, logprobs=0, logit_bias=((0, -100.0),)),
        _request(messages=(), raw=RawPrompt("")),
        _request(tools=(Tool("mcp:files/read.text-1"),), tool_choice=ToolChoice(ToolUse.REQUIRED)),
        _request(output=OutputFormat(OutputKind.JSON)),
    ],
)
def test_request_when_fields_are_at_their_ends_then_taken_with_a_seed(request_: CompletionRequest):
    assert validate_completion(request_).sampling.seed is not None
