"""What a request must look like before an engine sees it."""

import json
import math
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any, cast

import msgspec

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    Tool,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput

_SEED_BITS = 31
_MOST_STOPS = 64
_LONGEST_STOP = 1024
_MOST_BIASES = 1024
_MOST_TOOLS = 256
_MOST_LIKELIHOODS = 20
_DEEPEST_VALUE = 200
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,64}")


def checked(request: CompletionRequest) -> CompletionRequest:
    """The request with a seed. Raises InvalidInput for a value that no model can take."""
    if request.raw is not None:
        _check_raw(request, request.raw)
    elif not request.messages:
        raise InvalidInput.at("messages", "at least one message is needed")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidInput.at("max_tokens", "must be at least 1")
    _check_sampling(request.sampling)
    _encodable("owner", request.owner)
    for at, message in enumerate(request.messages):
        _check_message(message, f"messages[{at}]")
    _check_tools(request.tools, request.tool_choice)
    _check_output(request.output)
    if request.sampling.seed is not None:
        return request
    drawn = msgspec.structs.replace(request.sampling, seed=secrets.randbits(_SEED_BITS))
    return msgspec.structs.replace(request, sampling=drawn)


def _check_raw(request: CompletionRequest, raw: RawPrompt) -> None:
    if request.messages:
        raise InvalidInput.at("messages", "a raw prompt stands instead of messages")
    if request.tools:
        raise InvalidInput.at("tools", "a raw prompt knows no tools")
    _encodable("prompt", raw.text)
    _encodable("suffix", raw.suffix or "")


def _check_sampling(sampling: Sampling) -> None:
    _in_range("temperature", sampling.temperature, 0, 100)
    _in_range("top_k", sampling.top_k, 0, 2**31 - 1)
    _in_range("top_p", sampling.top_p, 0, 1)
    _in_range("min_p", sampling.min_p, 0, 1)
    _in_range("repeat_penalty", sampling.repeat_penalty, 0.01, 100)
    _in_range("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _in_range("presence_penalty", sampling.presence_penalty, -2, 2)
    if sampling.logprobs is not None:
        _in_range("logprobs", sampling.logprobs, 0, _MOST_LIKELIHOODS)
    _check_biases(sampling.logit_bias)
    if sampling.seed is not None and not -(2**63) <= sampling.seed < 2**63:
        raise InvalidInput.at("seed", "must fit in 64 bits")
    if len(sampling.stop) > _MOST_STOPS:
        raise InvalidInput.at("stop", f"at most {_MOST_STOPS} stop strings are allowed")
    _encodable("stop", *sampling.stop)
    if any(not 0 < len(stop) <= _LONGEST_STOP for stop in sampling.stop):
        raise InvalidInput.at("stop", f"each must have 1 to {_LONGEST_STOP} characters")


def _check_biases(biases: Collection[tuple[int, float]]) -> None:
    """Whether a token exists only its engine knows."""
    if len(biases) > _MOST_BIASES:
        raise InvalidInput.at("logit_bias", f"at most {_MOST_BIASES} tokens are allowed")
    if len({token for token, _ in biases}) < len(biases):
        raise InvalidInput.at("logit_bias", "each token may stand in it once")
    for token, bias in biases:
        if not 0 <= token < 2**31:
            raise InvalidInput.at("logit_bias", f"{token} is no token's number")
        _in_range("logit_bias", bias, -100, 100)


def _check_message(message: Message, place: str) -> None:
    _encodable(f"{place}.content", message.content)
    _encodable(f"{place}.tool_call_id", message.tool_call_id)
    if message.tool_calls and message.role is not MessageRole.ASSISTANT:
        raise InvalidInput.at(f"{place}.tool_calls", "only an assistant's message has tool calls")
    for at, call in enumerate(message.tool_calls):
        _encodable(f"{place}.tool_calls[{at}]", call.id, call.name, call.arguments)


def _check_tools(tools: Collection[Tool], choice: ToolChoice) -> None:
    if len(tools) > _MOST_TOOLS:
        raise InvalidInput.at("tools", f"at most {_MOST_TOOLS} tools are allowed")
    names = [tool.name for tool in tools]
    for at, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(tool.name):
            reason = "must have 1 to 64 letters, digits, or _ . : / -"
            raise InvalidInput.at(f"tools[{at}].name", reason)
        if tool.name in names[:at]:
            raise InvalidInput.at(f"tools[{at}].name", f"there are two tools {tool.name!r}")
        _encodable(f"tools[{at}].description", tool.description)
        _encodable_value(f"tools[{at}].parameters", tool.parameters)
    if choice.use is ToolUse.REQUIRED and not tools:
        raise InvalidInput.at("tool_choice", "a call is required, but there are no tools")
    if choice.name and choice.name not in names:
        raise InvalidInput.at("tool_choice", f"there is no tool {choice.name!r}")


def _check_output(output: OutputFormat) -> None:
    if output.kind is OutputKind.SCHEMA:
        if output.schema is None:
            raise InvalidInput.at("output.schema", "is needed for this kind of output")
        _encodable_value("output.schema", output.schema)
    if output.kind is OutputKind.GRAMMAR:
        if not output.grammar.strip():
            raise InvalidInput.at("output.grammar", "is needed for this kind of output")
        _encodable("output.grammar", output.grammar)


def _encodable_value(field: str, value: Any) -> None:
    if not _is_shallow(value):
        raise InvalidInput.at(field, f"may be nested {_DEEPEST_VALUE} deep")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidInput.at(field, "must be a JSON value") from error
    _encodable(field, text)


def _is_shallow(value: Any) -> bool:
    """How deep a value may be before a reader or writer fails differs from one to the next."""
    level = [value]
    for _ in range(_DEEPEST_VALUE):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return True
    return False


def _inner(value: Any) -> Collection[Any]:
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value).values()
    return cast(list[Any], value) if isinstance(value, list | tuple) else ()


def _encodable(field: str, *texts: str) -> None:
    """Half a surrogate pair can stand in a Python string, but in no text of a model."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.at(field, "must be valid Unicode text") from error


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput.at(field, f"must be from {low} to {high}")
