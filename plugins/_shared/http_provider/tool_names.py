"""Short names of tools for providers that take fewer characters than the clients' APIs.

Anthropic's API and OpenAI's Responses take names of 128 characters, others 64. A longer name is
sent as its beginning and a hash, so that it is the same in every request of a conversation.
"""

import hashlib
from collections.abc import Mapping

from msgspec.structs import replace

from appliance.domain.messages import CompletionEvent, CompletionRequest, ToolCall

_HASH_CHARACTERS = 12


def shorten_tool_names(
    request: CompletionRequest, limit: int
) -> tuple[CompletionRequest, Mapping[str, str]]:
    """The request with names of at most `limit` characters, and the original of each short one."""
    names = {tool.name for tool in request.tools}
    names.update(call.name for message in request.messages for call in message.tool_calls)
    short = {name: _shorten(name, limit) for name in names if len(name) > limit}
    if not short:
        return request, {}
    tools = tuple(replace(tool, name=short.get(tool.name, tool.name)) for tool in request.tools)
    choice = request.tool_choice
    messages = tuple(
        replace(
            message,
            tool_calls=tuple(
                replace(call, name=short.get(call.name, call.name)) for call in message.tool_calls
            ),
        )
        for message in request.messages
    )
    changed = replace(
        request,
        tools=tools,
        tool_choice=replace(choice, name=short.get(choice.name, choice.name)),
        messages=messages,
    )
    return changed, {value: name for name, value in short.items()}


def restore_tool_name(event: CompletionEvent, originals: Mapping[str, str]) -> CompletionEvent:
    """The event; a tool call has its tool's original name."""
    if isinstance(event, ToolCall) and event.name in originals:
        return replace(event, name=originals[event.name])
    return event


def _shorten(name: str, limit: int) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: limit - _HASH_CHARACTERS - 1]}_{digest}"
