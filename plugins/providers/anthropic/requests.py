"""Builds the request bodies of Anthropic's Messages API.

System messages, wherever they stand, become the one system prompt. The API has no seed,
so none is sent; the SPI promises no reproducible completions for remote providers.
"""

from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    OutputKind,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.tool_arguments import decode_arguments
from plugins._shared.http_provider.unsupported import given_sampling

_UNSUPPORTED_SAMPLING = (
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
)


def build_message_body(name: str, request: CompletionRequest, max_tokens: int) -> dict[str, Any]:
    """The body for /messages. Raises InvalidInput for what the API lacks."""
    unsupported.refuse_sampling(name, request, _UNSUPPORTED_SAMPLING)
    body = build_prompt(name, request) | {"max_tokens": max_tokens, "stream": True}
    body |= given_sampling(request.sampling, ("temperature", "top_p", "top_k"))
    if request.sampling.stop:
        body["stop_sequences"] = list(request.sampling.stop)
    return body


def build_prompt(name: str, request: CompletionRequest) -> dict[str, Any]:
    """The part of the body that makes up the prompt; the body for /messages/count_tokens."""
    if request.raw is not None:
        raise unsupported.unsupported_field(name, "prompt")
    system = [m.content for m in request.messages if m.role is MessageRole.SYSTEM and m.content]
    body: dict[str, Any] = {"model": request.model, "messages": _turns(request.messages)}
    if system:
        body["system"] = "\n\n".join(system)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if choice := _choice(request.tool_choice):
            body["tool_choice"] = choice
    if request.output.kind is OutputKind.JSON:
        raise InvalidInput.at(
            "response_format", f"provider {name} supports JSON only with a schema; send one"
        )
    if request.output.kind is OutputKind.SCHEMA:
        schema = dict(request.output.schema or {})
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The chat without system messages; adjacent messages of one role are merged."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role is MessageRole.SYSTEM:
            continue
        role = "assistant" if message.role is MessageRole.ASSISTANT else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role is MessageRole.TOOL:
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        content = _content_blocks(message) if message.parts else message.content
        return [result | ({"content": content} if content else {})]
    if message.role is MessageRole.USER and message.parts:
        return _content_blocks(message)
    # The API rejects empty text blocks.
    text = [{"type": "text", "text": message.content}] if message.content else []
    return text + [_tool_use(call) for call in message.tool_calls]


def _content_blocks(message: Message) -> list[dict[str, Any]]:
    return [_content_block(part) for part in message.parts]


def _content_block(part: MessagePart) -> dict[str, Any]:
    match part:
        case MediaPart(kind="image" | "document" as kind, url=url) if url:
            return {"type": kind, "source": {"type": "url", "url": url}}
        case MediaPart(kind="image" | "document" as kind, data=data) if data:
            source = {"type": "base64", "media_type": part.media_type, "data": data}
            return {"type": kind, "source": source}
        case _:
            return {"type": "text", "text": part if isinstance(part, str) else part.placeholder}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": decode_arguments(call),
    }


def _tool(tool: Tool) -> dict[str, Any]:
    body: dict[str, Any] = {"name": tool.name}
    if tool.description:
        body["description"] = tool.description
    body["input_schema"] = {"type": "object", "properties": {}} | dict(tool.parameters)
    if tool.strict is not None:
        body["strict"] = tool.strict
    return body


def _choice(choice: ToolChoice) -> dict[str, Any]:
    """{} if none was given. Parallel calls are allowed unless they are disabled."""
    if choice.use is ToolUse.NONE:
        return {"type": "none"}
    kind: dict[str, Any] = {"type": "any" if choice.use is ToolUse.REQUIRED else "auto"}
    if choice.use is ToolUse.REQUIRED and choice.name:
        kind = {"type": "tool", "name": choice.name}
    if choice.parallel is not None:
        return kind | {"disable_parallel_tool_use": not choice.parallel}
    return kind if choice.use is not None else {}
