"""Builds the request bodies of the Gemini API.

System messages, wherever they stand, become the one system instruction.
"""

import re
from typing import Any, cast

import msgspec

from appliance.domain.messages import (
    CompletionRequest,
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolCall,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.tool_arguments import decode_arguments
from plugins._shared.http_provider.unsupported import given_sampling
from plugins.providers.google.thought_signatures import SKIP_VALIDATOR, ThoughtSignatureCache

_UNSUPPORTED_SAMPLING = ("min_p", "repeat_penalty", "logit_bias")
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_WITHOUT_SIGNATURES = re.compile(r"(?:models/)?gemini-[12]\b")
_USES = {ToolUse.AUTO: "AUTO", ToolUse.NONE: "NONE", ToolUse.REQUIRED: "ANY"}


def build_body(
    name: str, request: CompletionRequest, signatures: ThoughtSignatureCache
) -> dict[str, Any]:
    """The body for generateContent. Raises InvalidInput for what the API lacks."""
    unsupported.refuse_sampling(name, request, _UNSUPPORTED_SAMPLING)
    body = build_prompt(name, request, signatures)
    config = _sampling(request.sampling) | _format(request.output)
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if config:
        body["generationConfig"] = config
    return body


def build_prompt(
    name: str, request: CompletionRequest, signatures: ThoughtSignatureCache
) -> dict[str, Any]:
    """The part of the body that makes up the prompt."""
    if request.raw is not None:
        raise unsupported.unsupported_field(name, "prompt")
    system = [m.content for m in request.messages if m.role is MessageRole.SYSTEM and m.content]
    body: dict[str, Any] = {"contents": _turns(request, signatures)}
    if system:
        body["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}]}
    if request.tools:
        if request.tool_choice.parallel is False:
            raise unsupported.unsupported_field(name, "parallel_tool_calls")
        body["tools"] = [{"functionDeclarations": [_function(tool) for tool in request.tools]}]
        if request.tool_choice.use is not None:
            choice = _choice(request.tool_choice.use, request.tool_choice.name)
            body["toolConfig"] = {"functionCallingConfig": choice}
    return body


def _turns(request: CompletionRequest, signatures: ThoughtSignatureCache) -> list[dict[str, Any]]:
    """The chat without system messages; adjacent messages of one role are merged."""
    names = {call.id: call.name for message in request.messages for call in message.tool_calls}
    needs_signatures = not _WITHOUT_SIGNATURES.match(request.model)
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role is MessageRole.SYSTEM:
            continue
        role = "model" if message.role is MessageRole.ASSISTANT else "user"
        parts = _parts(message, names, signatures, needs_signatures)
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    return turns


def _parts(
    message: Message,
    names: dict[str, str],
    signatures: ThoughtSignatureCache,
    needs_signatures: bool,
) -> list[dict[str, Any]]:
    if message.role is MessageRole.TOOL:
        if message.tool_call_id not in names:
            raise InvalidInput.at(
                "tool_call_id", f"no earlier message has a tool call {message.tool_call_id!r}"
            )
        response = {"id": message.tool_call_id, "name": names[message.tool_call_id]}
        result = {"functionResponse": response | {"response": _result(message.content)}}
        return [result, *(_part(media) for media in message.media if media.data or media.url)]
    text: list[dict[str, Any]] = [{"text": message.content}] if message.content else []
    if message.role is MessageRole.USER and message.parts:
        text = [_part(part) for part in message.parts]
    calls = [_call(call, signatures) for call in message.tool_calls]
    if calls and needs_signatures:
        # Only the first of parallel calls has a signature.
        calls[0].setdefault("thoughtSignature", SKIP_VALIDATOR)
    return text + calls


def _part(part: MessagePart) -> dict[str, Any]:
    match part:
        case MediaPart(data=data) if data:
            return {"inlineData": {"mimeType": part.media_type, "data": data}}
        case MediaPart(url=url) if url:
            return {"fileData": {"fileUri": url}}
        case _:
            return {"text": part if isinstance(part, str) else part.placeholder}


def _call(call: ToolCall, signatures: ThoughtSignatureCache) -> dict[str, Any]:
    part = {"functionCall": {"id": call.id, "name": call.name, "args": decode_arguments(call)}}
    signature = signatures.get(call.id)
    return part | ({"thoughtSignature": signature} if signature else {})


def _result(text: str) -> dict[str, Any]:
    """The result as an object: a JSON object as it is, anything else as {"result": …}."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = text
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"result": value}


def _sampling(sampling: Sampling) -> dict[str, Any]:
    config: dict[str, Any] = {
        _SAMPLING[field]: value for field, value in given_sampling(sampling, _SAMPLING).items()
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
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parametersJsonSchema"] = dict(tool.parameters)
    return function


def _choice(use: ToolUse, name: str) -> dict[str, Any]:
    config: dict[str, Any] = {"mode": _USES[use]}
    if use is ToolUse.REQUIRED and name:
        config["allowedFunctionNames"] = [name]
    return config
