"""From input items to the domain's messages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.api.http.validation import located
from appliance.api.openai.responses.schemas import Item
from appliance.domain.messages import Message, MessageRole, ToolCall
from appliance.errors import InvalidInput

_BETWEEN = "\n"
_ROLES = {
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}

Named = Annotated[str, Meta(min_length=1)]
T = TypeVar("T")


class MessageItem(Struct):
    role: str
    content: str | list[Item]


class CallItem(Struct):
    call_id: Named
    name: Named
    arguments: str


class OutputItem(Struct):
    call_id: Named
    output: str | list[Item]


def conversation(instructions: str | None, given: str | Sequence[Item]) -> tuple[Message, ...]:
    """The whole prompt. Raises InvalidInput naming the item at fault."""
    messages = [Message(MessageRole.SYSTEM, instructions)] if instructions else []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    for index, item in enumerate(given):
        for message in _read(f"input[{index}]", item):
            _append(messages, message)
    _check(messages)
    return tuple(messages)


def converted(place: str, given: Item, kind: type[T]) -> T:
    """`given` as a struct. Raises InvalidInput with the place below `place`."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        within = str(error).partition(" - at `$")[2].rstrip("`")
        raise InvalidInput.at(*located(f"{place}{within}", str(error))) from None


def _read(place: str, item: Item) -> Iterator[Message]:
    kind = str(item.get("type") or "message")
    reader = _READERS.get(kind)
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise InvalidInput.at(
            f"{place}.type", f"{kind[:60]!r} is not possible on this box; use {known}"
        )
    return reader(place, item)


def _message(place: str, item: Item) -> Iterator[Message]:
    found = converted(place, item, MessageItem)
    role = _ROLES.get(found.role)
    if role is None:
        raise InvalidInput.at(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    yield Message(role, _text(f"{place}.content", found.content))


def _call(place: str, item: Item) -> Iterator[Message]:
    found = converted(place, item, CallItem)
    call = ToolCall(found.call_id, found.name, found.arguments)
    yield Message(MessageRole.ASSISTANT, "", (call,))


def _output(place: str, item: Item) -> Iterator[Message]:
    found = converted(place, item, OutputItem)
    text = _text(f"{place}.output", found.output)
    yield Message(MessageRole.TOOL, text, tool_call_id=found.call_id)


def _nothing(place: str, item: Item) -> Iterator[Message]:  # noqa: ARG001
    """What a model thought before is not told to it again."""
    return iter(())


_READERS: dict[str, Callable[[str, Item], Iterator[Message]]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _nothing,
}


def _text(place: str, content: str | Sequence[Item]) -> str:
    if isinstance(content, str):
        return content
    return _BETWEEN.join(_part(f"{place}[{index}]", part) for index, part in enumerate(content))


def _part(place: str, part: Item) -> str:
    kind = str(part.get("type"))
    field = _TEXTS.get(kind)
    if field is None:
        raise InvalidInput.at(
            f"{place}.type",
            f"{kind[:60]!r} is not possible on this box, which reads text only",
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidInput.at(f"{place}.{field}", "must be a string")
    return text


def _append(messages: list[Message], message: Message) -> None:
    """What the model said and called in one turn is one message."""
    last = messages[-1] if messages else None
    if last is None or not last.role is message.role is MessageRole.ASSISTANT:
        messages.append(message)
        return
    text = _BETWEEN.join(part for part in (last.content, message.content) if part)
    messages[-1] = Message(last.role, text, last.tool_calls + message.tool_calls)


def _check(messages: Sequence[Message]) -> None:
    if not any(each.role in (MessageRole.USER, MessageRole.TOOL) for each in messages):
        raise InvalidInput.at("input", "holds no message of a user to answer")
    called: set[str] = set()
    for message in messages:
        called.update(call.id for call in message.tool_calls)
        if message.role is MessageRole.TOOL and message.tool_call_id not in called:
            raise InvalidInput.at(
                "input",
                f"the function_call_output for {message.tool_call_id[:80]!r} answers no "
                "function_call before it",
            )
