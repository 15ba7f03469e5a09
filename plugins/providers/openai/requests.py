"""Builds the request bodies of OpenAI's API: they hold what the caller gave, and no more.

OpenAI itself gets only the parameters in its reference; other servers also get top_k,
min_p and the repeat penalty, under the names that vLLM and llama-server read.
"""

from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    OutputFormat,
    OutputKind,
    Tool,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.unsupported import given_sampling

_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
_NON_OPENAI_SAMPLING = ("top_k", "min_p", "repeat_penalty")
_DEFAULT_SCHEMA_NAME = "answer"


def build_chat_body(name: str, request: CompletionRequest, *, official: bool) -> dict[str, Any]:
    """The body for /chat/completions. Raises InvalidInput for what the API lacks."""
    body = _common(name, request, official=official)
    body["messages"] = build_messages(request)
    if request.max_tokens is not None:
        body["max_completion_tokens" if official else "max_tokens"] = request.max_tokens
    if request.sampling.logprobs is not None:
        body["logprobs"] = True
    if request.sampling.logprobs:
        body["top_logprobs"] = request.sampling.logprobs
    if request.tools:
        body |= _tool_fields(request.tools, request.tool_choice)
    if request.output.kind is not OutputKind.TEXT:
        body["response_format"] = _response_format(request.output)
    return body


def build_completion_body(
    name: str, request: CompletionRequest, *, official: bool
) -> dict[str, Any]:
    """The body for /completions: continues `request.raw`, or fills in before its suffix."""
    raw = request.raw
    if raw is None or request.messages:
        raise InvalidInput.at("messages", "a raw prompt takes no messages")
    if request.output.kind is not OutputKind.TEXT:
        raise unsupported.unsupported_field(name, "response_format")
    body = _common(name, request, official=official) | {"prompt": raw.text}
    if raw.suffix is not None:
        body["suffix"] = raw.suffix
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def build_messages(request: CompletionRequest) -> list[dict[str, Any]]:
    """The messages of the chat.

    A tool message takes text only: what else a tool returned follows in a user message.
    """
    bodies: list[dict[str, Any]] = []
    returned: list[dict[str, Any]] = []
    for message in request.messages:
        if returned and message.role is not MessageRole.TOOL:
            bodies.append({"role": "user", "content": returned})
            returned = []
        bodies.append(_message(message))
        if message.role is MessageRole.TOOL:
            returned += [part for media in message.media if (part := _media(media))]
    return [*bodies, {"role": "user", "content": returned}] if returned else bodies


def build_tools(tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
    """The tools as functions."""
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _common(name: str, request: CompletionRequest, *, official: bool) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= given_sampling(sampling, _SAMPLING)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if official:
        unsupported.refuse_sampling(name, request, _NON_OPENAI_SAMPLING)
        return body
    extra = given_sampling(sampling, _NON_OPENAI_SAMPLING)
    if "repeat_penalty" in extra:
        extra["repetition_penalty"] = extra["repeat_penalty"]
    return body | extra


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.role is MessageRole.USER and message.parts:
        body["content"] = [_content_part(part) for part in message.parts]
    if message.role is MessageRole.TOOL:
        if message.parts:
            body["content"] = "\n".join(_text_of_result(part) for part in message.parts)
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return body


def _content_part(part: MessagePart) -> dict[str, Any]:
    if isinstance(part, MediaPart) and (media := _media(part)):
        return media
    return {"type": "text", "text": part if isinstance(part, str) else part.placeholder}


def _text_of_result(part: MessagePart) -> str:
    if isinstance(part, str):
        return part
    return f"[{part.kind}: in the next message]" if _media(part) else part.placeholder


def _media(media: MediaPart) -> dict[str, Any] | None:
    """The part as this API takes it, None if it takes no such part."""
    match media:
        case MediaPart(kind="image", url=url) if url:
            return {"type": "image_url", "image_url": {"url": url}}
        case MediaPart(kind="image", data=data) if data:
            url = f"data:{media.media_type};base64,{data}"
            return {"type": "image_url", "image_url": {"url": url}}
        case MediaPart(kind="audio", data=data) if data:
            form = media.media_type.removeprefix("audio/")
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case MediaPart(kind="document", data=data) if data:
            url = f"data:{media.media_type};base64,{data}"
            file = {"filename": media.name or "document", "file_data": url}
            return {"type": "file", "file": file}
        case _:
            return None


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice) -> dict[str, Any]:
    body: dict[str, Any] = {"tools": build_tools(tools)}
    if choice.use is ToolUse.REQUIRED and choice.name:
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.use is not None:
        body["tool_choice"] = choice.use.value
    if choice.parallel is not None:
        body["parallel_tool_calls"] = choice.parallel
    return body


def _function(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters) or {"type": "object", "properties": {}}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _response_format(output: OutputFormat) -> dict[str, Any]:
    if output.kind is OutputKind.JSON:
        return {"type": "json_object"}
    schema: dict[str, Any] = {
        "name": output.name or _DEFAULT_SCHEMA_NAME,
        "schema": dict(output.schema or {}),
    }
    if output.strict is not None:
        schema["strict"] = output.strict
    return {"type": "json_schema", "json_schema": schema}
