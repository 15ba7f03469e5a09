"""Converts input items to messages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from appliance.api.http.validation import convert_field
from appliance.api.openai.messages import convert_url
from appliance.api.openai.responses.schemas import Item
from appliance.domain.messages import (
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    ToolCall,
    join_parts,
)
from appliance.errors import InvalidInput

_SEPARATOR = "\n"
_ROLES = {
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
}
_TEXT_FIELDS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}

NonEmpty = Annotated[str, Meta(min_length=1)]


class MessageItem(Struct):
    role: str
    content: str | list[Item]


class CallItem(Struct):
    call_id: NonEmpty
    name: NonEmpty
    arguments: str


class OutputItem(Struct):
    call_id: NonEmpty
    output: str | list[Item]


def convert_input(instructions: str | None, items: str | Sequence[Item]) -> tuple[Message, ...]:
    """The messages of the prompt. Raises InvalidInput naming the item."""
    messages = [Message(MessageRole.SYSTEM, instructions)] if instructions else []
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    for index, item in enumerate(items):
        for message in _convert_item(f"input[{index}]", item):
            _append_message(messages, message)
    _validate(messages)
    return tuple(messages)


def _convert_item(place: str, item: Item) -> Iterator[Message]:
    kind = str(item.get("type") or "message")
    converter = _CONVERTERS.get(kind)
    if converter is None:
        types = ", ".join(sorted(_CONVERTERS))
        raise InvalidInput.at(f"{place}.type", f"{kind[:60]!r} is not supported; use {types}")
    return converter(place, item)


def _message(place: str, item: Item) -> Iterator[Message]:
    body = convert_field(item, MessageItem, place)
    role = _ROLES.get(body.role)
    if role is None:
        raise InvalidInput.at(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    text, parts = _content(f"{place}.content", body.content, is_output=False)
    yield Message(role, text, parts=parts)


def _call(place: str, item: Item) -> Iterator[Message]:
    body = convert_field(item, CallItem, place)
    call = ToolCall(body.call_id, body.name, body.arguments)
    yield Message(MessageRole.ASSISTANT, "", (call,))


def _output(place: str, item: Item) -> Iterator[Message]:
    body = convert_field(item, OutputItem, place)
    text, parts = _content(f"{place}.output", body.output, is_output=True)
    yield Message(MessageRole.TOOL, text, (), body.call_id, parts)


def _ignore_item(place: str, item: Item) -> Iterator[Message]:  # noqa: ARG001
    """Reasoning of earlier turns is not part of the prompt."""
    return iter(())


_CONVERTERS: dict[str, Callable[[str, Item], Iterator[Message]]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _ignore_item,
}


def _content(
    place: str, content: str | Sequence[Item], *, is_output: bool
) -> tuple[str, tuple[MessagePart, ...]]:
    """`content` and `parts` of a message; outputs may hold unknown parts, as placeholders."""
    if isinstance(content, str):
        return content, ()
    parts = (
        _part(f"{place}[{index}]", part, is_output=is_output) for index, part in enumerate(content)
    )
    return join_parts(parts, _SEPARATOR)


def _part(place: str, part: Item, *, is_output: bool) -> MessagePart:
    kind = str(part.get("type"))
    if field := _TEXT_FIELDS.get(kind):
        return _string(place, part, field)
    if kind == "input_image" and "image_url" in part:
        return convert_url("image", _string(place, part, "image_url"))
    if kind == "input_file" and "file_data" in part:
        name = part.get("filename")
        found = convert_url("document", _string(place, part, "file_data"))
        return replace(found, name=name if isinstance(name, str) else "")
    if is_output:
        return MediaPart(kind[:40])
    raise InvalidInput.at(f"{place}.type", f"{kind[:60]!r} is not supported; send text")


def _string(place: str, part: Item, field: str) -> str:
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidInput.at(f"{place}.{field}", "must be a string")
    return text


def _append_message(messages: list[Message], message: Message) -> None:
    """Append a message; text and calls of one assistant turn become one message."""
    last = messages[-1] if messages else None
    if last is None or not last.role is message.role is MessageRole.ASSISTANT:
        messages.append(message)
        return
    both = (*(last.parts or (last.content,)), *(message.parts or (message.content,)))
    text, parts = join_parts(both, _SEPARATOR)
    messages[-1] = Message(last.role, text, last.tool_calls + message.tool_calls, parts=parts)


def _validate(messages: Sequence[Message]) -> None:
    if not any(each.role in (MessageRole.USER, MessageRole.TOOL) for each in messages):
        raise InvalidInput.at("input", "must hold a message of the user or a tool output")
    call_ids: set[str] = set()
    for message in messages:
        call_ids.update(call.id for call in message.tool_calls)
        if message.role is MessageRole.TOOL and message.tool_call_id not in call_ids:
            raise InvalidInput.at(
                "input",
                f"the function_call_output for {message.tool_call_id[:80]!r} has no "
                "function_call before it",
            )
