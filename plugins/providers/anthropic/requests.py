"""A completion as Anthropic's Messages API wants it asked for.

System messages, wherever they stand, become the one system prompt; a seed is not sent,
because there is none: with one or without, the provider promises no equal answers.
"""

from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputKind,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins._shared.http_provider import unsupported
from plugins._shared.http_provider.tool_arguments import arguments
from plugins._shared.http_provider.unsupported import asked

_NOT_THERE = (
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
)


def message(name: str, request: CompletionRequest, max_tokens: int) -> dict[str, Any]:
    """The body for /messages. Raises InvalidInput for what can't be had."""
    unsupported.refuse(name, request, _NOT_THERE)
    body = prompt(name, request) | {"max_tokens": max_tokens, "stream": True}
    body |= asked(request.sampling, ("temperature", "top_p", "top_k"))
    if request.sampling.stop:
        body["stop_sequences"] = list(request.sampling.stop)
    return body


def prompt(name: str, request: CompletionRequest) -> dict[str, Any]:
    """The part of the body that makes the prompt: what /messages/count_tokens takes."""
    if request.raw is not None:
        raise unsupported.cannot(name, "prompt")
    system = [m.content for m in request.messages if m.role is MessageRole.SYSTEM and m.content]
    body: dict[str, Any] = {"model": request.model, "messages": _turns(request.messages)}
    if system:
        body["system"] = "\n\n".join(system)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _choice(request.tool_choice)
    if request.output.kind is OutputKind.JSON:
        raise InvalidInput.at(
            "response_format", f"provider {name} makes JSON only of a schema; send one"
        )
    if request.output.kind is OutputKind.SCHEMA:
        schema = dict(request.output.schema or {})
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The chat without system messages; neighbours of one role are one turn."""
    turns: list[dict[str, Any]] = []
    for found in messages:
        if found.role is MessageRole.SYSTEM:
            continue
        role = "assistant" if found.role is MessageRole.ASSISTANT else "user"
        blocks = _blocks(found)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(found: Message) -> list[dict[str, Any]]:
    if found.role is MessageRole.TOOL:
        result = {"type": "tool_result", "tool_use_id": found.tool_call_id}
        return [result | ({"content": found.content} if found.content else {})]
    # A block of empty text is refused there.
    text = [{"type": "text", "text": found.content}] if found.content else []
    return text + [_use(call) for call in found.tool_calls]


def _use(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": arguments(call),
    }


def _tool(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    found["input_schema"] = {"type": "object", "properties": {}} | dict(tool.parameters)
    return found


def _choice(choice: ToolChoice) -> dict[str, Any]:
    if choice.use is ToolUse.NONE:
        return {"type": "none"}
    kind: dict[str, Any] = {"type": "any" if choice.use is ToolUse.REQUIRED else "auto"}
    if choice.use is ToolUse.REQUIRED and choice.name:
        kind = {"type": "tool", "name": choice.name}
    return kind if choice.parallel else kind | {"disable_parallel_tool_use": True}
