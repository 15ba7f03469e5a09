"""Limits on the size of chats and raw completions."""

import msgspec
import pytest

from appliance.config.settings import LimitSettings
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import (
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Tool,
    ToolCall,
)
from appliance.errors import InvalidInput, PayloadTooLarge
from appliance.services.completions.limits import (
    MAX_SCHEMA_VALUES,
    check_embedded_texts,
    check_size,
)

_LIMITS = LimitSettings(prompt_bytes=100, messages=3)


def _chat(*texts: str, **more: object) -> CompletionSpec:
    messages = tuple(Message(MessageRole.USER, text) for text in texts)
    return msgspec.structs.replace(CompletionSpec("tiny", messages), **more)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(_chat("é" * 30, "x" * 41), "messages", id="F62 texts together"),
        pytest.param(_chat("x", "x", "x", "x"), "messages", id="F62 number of messages"),
        pytest.param(_chat("x", tools=(Tool("f", "x" * 100),)), "messages", id="tools"),
        pytest.param(
            CompletionSpec(
                "tiny",
                (Message(MessageRole.ASSISTANT, "", (ToolCall("1", "f", "x" * 100),)),),
            ),
            "messages",
            id="calls",
        ),
        pytest.param(CompletionSpec("tiny", raw=RawPrompt("x" * 99, "xx")), "prompt", id="raw"),
    ],
)
def test_size_when_a_limit_is_exceeded_then_refused_with_the_limit(
    spec: CompletionSpec, field: str
):
    with pytest.raises(PayloadTooLarge, match=f"{field}: .* exceed the limit of") as caught:
        check_size(spec, _LIMITS)
    assert caught.value.details["limit"] in {100, 3}


def test_size_when_it_is_exactly_the_limit_then_accepted():
    check_size(_chat("x" * 50, "x" * 25, "x" * 25), _LIMITS)


def test_embedded_texts_when_one_is_too_large_or_not_unicode_then_refused_by_place():
    """F62"""
    check_embedded_texts(["x" * 100] * 10, _LIMITS)
    with pytest.raises(PayloadTooLarge, match=r"input\[1\]: 101 bytes exceed the limit of 100"):
        check_embedded_texts(["x", "x" * 101], _LIMITS)
    with pytest.raises(InvalidInput, match="not valid Unicode at character 1"):
        check_embedded_texts(["x\ud800"], _LIMITS)


def test_text_when_it_is_not_unicode_then_refused_by_place():
    with pytest.raises(InvalidInput, match=r"messages\[1\]\.content"):
        check_size(_chat("x", "\ud800"), _LIMITS)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**400])
def test_integer_when_it_has_no_encoding_then_refused_by_place(number: int):
    """F60: whatever the provider, and whether or not the answer may be cached."""
    schema = {"properties": {"a": {"enum": [1, number]}}}
    of_tool = _chat("x", tools=(Tool("f"), Tool("g", parameters=schema)))
    of_output = _chat("x", output=OutputFormat(OutputKind.SCHEMA, schema))

    with pytest.raises(InvalidInput, match=r"tools\[1\]\.parameters\.properties\.a\.enum\[1\]"):
        check_size(of_tool, _LIMITS)
    with pytest.raises(InvalidInput, match=r"output\.schema\.properties"):
        check_size(of_output, _LIMITS)


def test_schemas_when_they_have_too_many_values_together_then_refused():
    half = {"enum": [0] * (MAX_SCHEMA_VALUES // 2)}

    check_size(_chat("x", tools=(Tool("f", parameters=half),)), _LIMITS)
    with pytest.raises(PayloadTooLarge, match=r"values exceed the limit of"):
        check_size(
            _chat("x", tools=(Tool("f", parameters=half), Tool("g", parameters=half))), _LIMITS
        )
