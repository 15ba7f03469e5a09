"""A completion as OpenAI's API wants it asked for.

To OpenAI itself only what its reference names is sent; other addresses also get top_k,
min_p and the repeat penalty, under the names that vLLM and llama-server read.
"""

from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    Tool,
    ToolChoice,
    ToolUse,
)
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.unsupported import asked

_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
_EXTRA = ("top_k", "min_p", "repeat_penalty")
_DEFAULT_SCHEMA_NAME = "answer"


def chat(name: str, request: CompletionRequest, *, official: bool) -> dict[str, Any]:
    """The body for /chat/completions. Raises InvalidInput for what can't be had."""
    body = _common(name, request, official=official)
    body["messages"] = messages(request)
    if request.max_tokens is not None:
        body["max_completion_tokens" if official else "max_tokens"] = request.max_tokens
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    if request.tools:
        body |= _with_tools(request.tools, request.tool_choice)
    if request.output.kind is not OutputKind.TEXT:
        body["response_format"] = _format(request.output)
    return body


def completion(name: str, request: CompletionRequest, *, official: bool) -> dict[str, Any]:
    """The body for /completions: `request.raw` goes on, or its gap is filled."""
    raw = request.raw
    if raw is None or request.messages:
        raise unsupported.InvalidInput.at("messages", "a raw prompt has none")
    if request.output.kind is not OutputKind.TEXT:
        raise unsupported.cannot(name, "response_format")
    body = _common(name, request, official=official) | {"prompt": raw.text}
    if raw.suffix is not None:
        body["suffix"] = raw.suffix
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def messages(request: CompletionRequest) -> list[dict[str, Any]]:
    """The chat, turn by turn."""
    return [_message(message) for message in request.messages]


def tools(found: tuple[Tool, ...]) -> list[dict[str, Any]]:
    """The tools as functions."""
    return [{"type": "function", "function": _function(tool)} for tool in found]


def _common(name: str, request: CompletionRequest, *, official: bool) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= asked(sampling, _SAMPLING)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if official:
        unsupported.refuse(name, request, _EXTRA)
        return body
    extra = asked(sampling, _EXTRA)
    if "repeat_penalty" in extra:
        extra["repetition_penalty"] = extra["repeat_penalty"]
    return body | extra


def _message(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.role is MessageRole.TOOL:
        found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["content"] = message.content or None
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return found


def _with_tools(found: tuple[Tool, ...], choice: ToolChoice) -> dict[str, Any]:
    named = {"type": "function", "function": {"name": choice.name}}
    forced = choice.use is ToolUse.REQUIRED and choice.name
    body: dict[str, Any] = {
        "tools": tools(found),
        "tool_choice": named if forced else choice.use.value,
    }
    if not choice.parallel:
        body["parallel_tool_calls"] = False
    return body


def _function(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    found["parameters"] = dict(tool.parameters) or {"type": "object", "properties": {}}
    return found


def _format(output: OutputFormat) -> dict[str, Any]:
    if output.kind is OutputKind.JSON:
        return {"type": "json_object"}
    schema = {
        "name": output.name or _DEFAULT_SCHEMA_NAME,
        "schema": dict(output.schema or {}),
        "strict": output.strict,
    }
    return {"type": "json_schema", "json_schema": schema}
