"""Validates completion requests before they are sent to an engine."""

import json
import math
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from appliance.domain.messages import (
    CompletionRequest,
    MediaPart,
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
_MAX_STOPS = 64
_MAX_STOP_CHARS = 1024
_MAX_BIASES = 1024
_MAX_TOOLS = 256
_MAX_LOGPROBS = 20
_MAX_DEPTH = 200
_MAX_JSON_NODES = 100_000
_MAX_JSON_BYTES = 4 * 1024 * 1024
_MAX_ANSWER_TOKENS = 2**31 - 1
# The length of a raw completion for which none was given, as in OpenAI's API: a raw text has no
# end that a model would find by itself.
_RAW_TOKENS = 16
_RANGES = {
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "logprobs": (0, _MAX_LOGPROBS),
}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")


def validate_completion(request: CompletionRequest) -> CompletionRequest:
    """The request as an engine takes it: with a seed, with a length if it is raw, all of it text.

    Raises InvalidInput.
    """
    if request.raw is not None:
        _check_raw(request, request.raw)
    elif not request.messages:
        raise InvalidInput.at("messages", "at least one message is required")
    if request.max_tokens is not None:
        _check_range("max_tokens", request.max_tokens, 1, _MAX_ANSWER_TOKENS)
    _check_sampling(request.sampling)
    _check_unicode("owner", request.owner)
    for at, message in enumerate(request.messages):
        _check_message(message, f"messages[{at}]")
    _check_tools(request.tools, request.tool_choice)
    _check_output(request.output)
    _check_last_turn(request.messages)
    changes: dict[str, Any] = {
        "messages": tuple(
            msgspec.structs.replace(message, parts=()) if message.parts else message
            for message in request.messages
        )
    }
    if request.sampling.seed is None:
        seed = secrets.randbits(_SEED_BITS)
        changes["sampling"] = msgspec.structs.replace(request.sampling, seed=seed)
    if request.raw is not None and request.max_tokens is None:
        changes["max_tokens"] = _RAW_TOKENS
    return msgspec.structs.replace(request, **changes)


def _check_raw(request: CompletionRequest, raw: RawPrompt) -> None:
    if request.messages:
        raise InvalidInput.at("messages", "must be empty with a raw prompt")
    if request.tools:
        raise InvalidInput.at("tools", "must be empty with a raw prompt")
    _check_unicode("prompt", raw.text)
    _check_unicode("suffix", raw.suffix or "")


def _check_sampling(sampling: Sampling) -> None:
    values = msgspec.structs.asdict(sampling)
    for field, (low, high) in _RANGES.items():
        if values[field] is not None:
            _check_range(field, values[field], low, high)
    _check_biases(sampling.logit_bias)
    if sampling.seed is not None and not -(2**63) <= sampling.seed < 2**63:
        raise InvalidInput.at("seed", "must fit in 64 bits")
    if len(sampling.stop) > _MAX_STOPS:
        raise InvalidInput.at("stop", f"must have at most {_MAX_STOPS} strings")
    _check_unicode("stop", *sampling.stop)
    if any(not 0 < len(stop) <= _MAX_STOP_CHARS for stop in sampling.stop):
        raise InvalidInput.at("stop", f"each string must have 1 to {_MAX_STOP_CHARS} characters")


def _check_biases(biases: Collection[tuple[int, float]]) -> None:
    """Only the engine can check whether a token exists."""
    if len(biases) > _MAX_BIASES:
        raise InvalidInput.at("logit_bias", f"must have at most {_MAX_BIASES} tokens")
    if len({token for token, _ in biases}) < len(biases):
        raise InvalidInput.at("logit_bias", "must not repeat a token")
    for token, bias in biases:
        if not 0 <= token < 2**31:
            raise InvalidInput.at("logit_bias", f"{token} is not a token id")
        _check_range("logit_bias", bias, -100, 100)


def _check_message(message: Message, place: str) -> None:
    _check_unicode(f"{place}.content", message.content)
    _check_unicode(f"{place}.tool_call_id", message.tool_call_id)
    if message.tool_calls and message.role is not MessageRole.ASSISTANT:
        raise InvalidInput.at(f"{place}.tool_calls", "only assistant messages may have tool calls")
    for at, call in enumerate(message.tool_calls):
        _check_unicode(f"{place}.tool_calls[{at}]", call.id, call.name, call.arguments)


def _check_last_turn(messages: Sequence[Message]) -> None:
    """Elsewhere a placeholder stands for an image; here it is the question itself."""
    last = messages[-1] if messages else None
    if last is None or last.role is not MessageRole.USER:
        return
    for at, part in enumerate(last.parts):
        if isinstance(part, MediaPart):
            place = f"messages[{len(messages) - 1}].content[{at}]"
            raise InvalidInput.at(place, f"{part.kind!r}: this model reads text only")


def _check_tools(tools: Collection[Tool], choice: ToolChoice) -> None:
    if len(tools) > _MAX_TOOLS:
        raise InvalidInput.at("tools", f"must have at most {_MAX_TOOLS} tools")
    names = [tool.name for tool in tools]
    for at, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(tool.name):
            reason = "must have 1 to 128 letters, digits, or _ . : / -"
            raise InvalidInput.at(f"tools[{at}].name", reason)
        if tool.name in names[:at]:
            raise InvalidInput.at(f"tools[{at}].name", f"there is another tool {tool.name!r}")
        _check_unicode(f"tools[{at}].description", tool.description)
        _check_json(f"tools[{at}].parameters", tool.parameters)
    if choice.use is ToolUse.REQUIRED and not tools:
        raise InvalidInput.at("tool_choice", "a call is required, but there are no tools")
    if choice.name and choice.name not in names:
        raise InvalidInput.at("tool_choice", f"there is no tool {choice.name!r}")


def _check_output(output: OutputFormat) -> None:
    if output.kind is OutputKind.SCHEMA:
        if output.schema is None:
            raise InvalidInput.at("output.schema", "is required for this output format")
        _check_json("output.schema", output.schema)
    if output.kind is OutputKind.GRAMMAR:
        if not output.grammar.strip():
            raise InvalidInput.at("output.grammar", "is required for this output format")
        _check_unicode("output.grammar", output.grammar)


def _check_json(field: str, value: Any) -> None:
    _check_nodes(field, value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidInput.at(field, "must be a JSON value") from error
    if len(text) > _MAX_JSON_BYTES:
        raise InvalidInput.at(field, f"must have at most {_MAX_JSON_BYTES} characters as JSON")
    _check_unicode(field, text)


def _check_nodes(field: str, value: Any) -> None:
    """Limits of our own: JSON encoders and decoders fail at different depths and numbers."""
    level = [(field, value)]
    nodes = 0
    for _ in range(_MAX_DEPTH + 1):
        nodes += len(level)
        if nodes > _MAX_JSON_NODES:
            raise InvalidInput.at(field, f"must have at most {_MAX_JSON_NODES} values")
        for place, each in level:
            if isinstance(each, int) and not -(2**63) <= each < 2**64:
                raise InvalidInput.at(place, "integers must fit in 64 bits")
        level = [inner for place, each in level for inner in _children(place, each)]
        if not level:
            return
    raise InvalidInput.at(field, f"must be nested at most {_MAX_DEPTH} deep")


def _children(place: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        pairs = cast(Mapping[str, Any], value).items()
        return [(f"{place}.{key}", each) for key, each in pairs]
    if isinstance(value, list | tuple):
        items = cast(list[Any], value)
        return [(f"{place}[{at}]", each) for at, each in enumerate(items)]
    return ()


def _check_unicode(field: str, *texts: str) -> None:
    """A Python string may hold a lone surrogate, which has no UTF-8 encoding."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.at(field, "must be valid Unicode text") from error


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput.at(field, f"{value} is out of range ({low} to {high})")
