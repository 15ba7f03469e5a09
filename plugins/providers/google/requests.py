"""A completion as the Gemini API wants it asked for.

System messages, wherever they stand, become the one system instruction.
"""

import re
from typing import Any, cast

import msgspec

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.tool_arguments import arguments
from plugins._shared.http_provider.unsupported import asked
from plugins.providers.google.signatures import UNKNOWN, Signatures

_NOT_THERE = ("min_p", "repeat_penalty", "logit_bias")
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_WITHOUT_MARKS = re.compile(r"(?:models/)?gemini-[12]\b")
_USES = {ToolUse.AUTO: "AUTO", ToolUse.NONE: "NONE", ToolUse.REQUIRED: "ANY"}


def content(name: str, request: CompletionRequest, signatures: Signatures) -> dict[str, Any]:
    """The body for generateContent. Raises InvalidInput for what can't be had."""
    unsupported.refuse(name, request, _NOT_THERE)
    body = prompt(name, request, signatures)
    config = _sampling(request.sampling) | _format(request.output)
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if config:
        body["generationConfig"] = config
    return body


def prompt(name: str, request: CompletionRequest, signatures: Signatures) -> dict[str, Any]:
    """The part of the body that makes the prompt."""
    if request.raw is not None:
        raise unsupported.cannot(name, "prompt")
    system = [m.content for m in request.messages if m.role is MessageRole.SYSTEM and m.content]
    body: dict[str, Any] = {"contents": _turns(request, signatures)}
    if system:
        body["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}]}
    if request.tools:
        if not request.tool_choice.parallel:
            raise unsupported.cannot(name, "parallel_tool_calls")
        body["tools"] = [{"functionDeclarations": [_function(tool) for tool in request.tools]}]
        body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
    return body


def _turns(request: CompletionRequest, signatures: Signatures) -> list[dict[str, Any]]:
    """The chat without system messages; neighbours of one role are one turn."""
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    wants_marks = not _WITHOUT_MARKS.match(request.model)
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role is MessageRole.SYSTEM:
            continue
        role = "model" if message.role is MessageRole.ASSISTANT else "user"
        parts = _parts(message, names, signatures, wants_marks)
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    return turns


def _parts(
    message: Message, names: dict[str, str], signatures: Signatures, wants_marks: bool
) -> list[dict[str, Any]]:
    if message.role is MessageRole.TOOL:
        if message.tool_call_id not in names:
            raise InvalidInput.at(
                "tool_call_id", f"no call {message.tool_call_id!r} stands before its result"
            )
        answer = {"id": message.tool_call_id, "name": names[message.tool_call_id]}
        return [{"functionResponse": answer | {"response": _result(message.content)}}]
    text = [{"text": message.content}] if message.content else []
    calls = [_call(call, signatures) for call in message.tool_calls]
    if calls and wants_marks:
        # Of calls made at once the first one bears the mark.
        calls[0].setdefault("thoughtSignature", UNKNOWN)
    return text + calls


def _call(call: ToolCall, signatures: Signatures) -> dict[str, Any]:
    part = {"functionCall": {"id": call.id, "name": call.name, "args": arguments(call)}}
    mark = signatures.of(call.id)
    return part | ({"thoughtSignature": mark} if mark else {})


def _result(text: str) -> dict[str, Any]:
    """An object as it is; anything else under a name of its own."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        found = text
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {"result": found}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    config: dict[str, Any] = {
        _SAMPLING[ours]: value for ours, value in asked(sampling, _SAMPLING).items()
    }
    if sampling.stop:
        config["stopSequences"] = list(sampling.stop)
    if sampling.logprobs is not None:
        config["responseLogprobs"] = True
    if sampling.logprobs:
        config["logprobs"] = sampling.logprobs
    return config


def _format(output: OutputFormat) -> dict[str, Any]:
    if output.kind is OutputKind.TEXT:
        return {}
    config: dict[str, Any] = {"responseMimeType": "application/json"}
    if output.kind is OutputKind.SCHEMA:
        config["responseJsonSchema"] = dict(output.schema or {})
    return config


def _function(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters:
        found["parametersJsonSchema"] = dict(tool.parameters)
    return found


def _choice(choice: ToolChoice) -> dict[str, Any]:
    config: dict[str, Any] = {"mode": _USES[choice.use]}
    if choice.use is ToolUse.REQUIRED and choice.name:
        config["allowedFunctionNames"] = [choice.name]
    return config
