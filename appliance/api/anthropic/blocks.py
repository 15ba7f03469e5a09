"""Converts turns of content blocks to messages."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.api.anthropic.schemas import Block, MessageBody, Role
from appliance.api.anthropic.server_blocks import describe_server_block
from appliance.api.http.ignored_fields import IgnoredField
from appliance.api.http.validation import convert_field
from appliance.domain.messages import (
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    ToolCall,
    join_parts,
)
from appliance.errors import InvalidInput

_SEPARATOR = "\n\n"
_REASONING_TYPES = frozenset({"thinking", "redacted_thinking"})
_TOOL_ERROR_PREFIX = "The tool failed: "


class TextBlock(Struct):
    text: str


class SourceBody(Struct):
    """Where an image or a document is; `data` of the type "text" is a text."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class MediaBlock(Struct):
    type: str
    source: SourceBody
    title: str | None = None


class ToolUseBlock(Struct):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Struct):
    tool_use_id: str
    content: str | list[Block] | None = None
    is_error: bool = False


class SearchResultBlock(Struct):
    """A passage that the client found, to be quoted."""

    source: str
    title: str
    content: list[TextBlock]


_OwnBlock = TextBlock | MediaBlock | SearchResultBlock
KnownBlock = _OwnBlock | ToolUseBlock | ToolResultBlock
_KINDS: dict[str, type[KnownBlock]] = {
    "text": TextBlock,
    "image": MediaBlock,
    "document": MediaBlock,
    "search_result": SearchResultBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}
_ALLOWED = {
    Role.USER: frozenset({"text", "image", "document", "search_result", "tool_result"}),
    Role.ASSISTANT: frozenset({"text", "tool_use"}),
    Role.SYSTEM: frozenset({"text"}),
}
_ONLY_TEXT = frozenset({"text"})
_RESULT_TYPES = {
    "text": TextBlock,
    "image": MediaBlock,
    "document": MediaBlock,
    "search_result": SearchResultBlock,
}


def convert_messages(
    system: str | list[Block] | None, turns: Sequence[MessageBody], ignored: list[IgnoredField]
) -> tuple[Message, ...]:
    """The messages of the prompt. Raises InvalidInput naming the block.

    Blocks of the assistant's that hold nothing to read are added to `ignored`.
    """
    messages: list[Message] = []
    if text := join_text("system", system):
        messages.append(Message(MessageRole.SYSTEM, text))
    for index, turn in enumerate(turns):
        for message in _turn(f"messages[{index}]", turn, ignored):
            _append_message(messages, message)
    _check_results(messages)
    _check_last_turn(messages)
    return tuple(messages)


def join_text(place: str, content: str | list[Block] | None) -> str:
    """The text of blocks, which must be text blocks. Raises InvalidInput."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = _blocks(_placed(place, content), _ONLY_TEXT)
    return _join(block.text for block in blocks if isinstance(block, TextBlock))


def _turn(place: str, turn: MessageBody, ignored: list[IgnoredField]) -> Iterator[Message]:
    content = turn.content
    bodies = [{"type": "text", "text": content}] if isinstance(content, str) else content
    placed = _placed(f"{place}.content", bodies)
    if turn.role is Role.ASSISTANT:
        placed = _readable_blocks(placed, ignored)
    blocks = list(_blocks(placed, _ALLOWED[turn.role]))
    yield from _CONVERTERS[turn.role](place, blocks)


def _user(place: str, blocks: list[KnownBlock]) -> Iterator[Message]:
    """The tool results, then the text of the turn."""
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    for block in results:
        content, parts = join_parts(_result_parts(place, block), _SEPARATOR)
        if block.is_error:
            content = f"{_TOOL_ERROR_PREFIX}{content}"
            parts = (_TOOL_ERROR_PREFIX, *parts) if parts else ()
        yield Message(MessageRole.TOOL, content, (), block.tool_use_id, parts)
    own = (_part(block) for block in blocks if isinstance(block, _OwnBlock))
    content, parts = join_parts(own, _SEPARATOR)
    if content:
        yield Message(MessageRole.USER, content, parts=parts)
    elif not results:
        raise InvalidInput.at(f"{place}.content", "must not be empty")


def _assistant(place: str, blocks: list[KnownBlock]) -> Iterator[Message]:  # noqa: ARG001
    text = _join(block.text for block in blocks if isinstance(block, TextBlock))
    calls = tuple(_call(block) for block in blocks if isinstance(block, ToolUseBlock))
    if text or calls:
        yield Message(MessageRole.ASSISTANT, text, calls)


def _system(place: str, blocks: list[KnownBlock]) -> Iterator[Message]:  # noqa: ARG001
    if text := _join(block.text for block in blocks if isinstance(block, TextBlock)):
        yield Message(MessageRole.SYSTEM, text)


_CONVERTERS: dict[Role, Callable[[str, list[KnownBlock]], Iterator[Message]]] = {
    Role.USER: _user,
    Role.ASSISTANT: _assistant,
    Role.SYSTEM: _system,
}


def _call(block: ToolUseBlock) -> ToolCall:
    return ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())


def _part(block: _OwnBlock) -> MessagePart:
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, SearchResultBlock):
        passages = _join(each.text for each in block.content)
        return f"{block.title} ({block.source}):\n{passages}"
    source = block.source
    if source.type == "text":
        return source.data or ""
    return MediaPart(
        block.type, source.media_type or "", source.data or "", source.url or "", block.title or ""
    )


def _result_parts(place: str, block: ToolResultBlock) -> Iterator[MessagePart]:
    """What a tool returned; a block of an unknown type becomes a placeholder."""
    if isinstance(block.content, str):
        yield block.content
        return
    for index, body in enumerate(block.content or ()):
        kind = str(body.get("type"))
        if found := _RESULT_TYPES.get(kind):
            yield _part(convert_field(body, found, f"{place}.content.content[{index}]"))
        else:
            yield MediaPart(kind[:40])


def _placed(place: str, bodies: Sequence[Block]) -> Iterator[tuple[str, Block]]:
    for index, block in enumerate(bodies):
        yield f"{place}[{index}]", block


def _readable_blocks(
    placed: Iterable[tuple[str, Block]], ignored: list[IgnoredField]
) -> Iterator[tuple[str, Block]]:
    """With text for what tools of the server did, and without earlier reasoning."""
    for place, block in placed:
        kind = str(block.get("type"))
        if kind in _ALLOWED[Role.ASSISTANT]:
            yield place, block
        elif text := describe_server_block(place, block):
            yield place, {"type": "text", "text": text}
        elif kind not in _REASONING_TYPES:
            ignored.append(IgnoredField(place, kind))


def _blocks(placed: Iterable[tuple[str, Block]], allowed: frozenset[str]) -> Iterator[KnownBlock]:
    for place, block in placed:
        kind = str(block.get("type"))
        if kind not in allowed:
            types = ", ".join(sorted(allowed))
            raise InvalidInput.at(
                f"{place}.type", f"{kind[:40]!r} is not supported here; use {types}"
            )
        yield convert_field(block, _KINDS[kind], place)


def _append_message(messages: list[Message], message: Message) -> None:
    """Append a message; consecutive turns of the same role become one message."""
    last = messages[-1] if messages else None
    mergeable = message.role in (MessageRole.USER, MessageRole.ASSISTANT)
    if last is None or last.role is not message.role or not mergeable:
        messages.append(message)
        return
    content, parts = join_parts((*_parts_of(last), *_parts_of(message)), _SEPARATOR)
    calls = last.tool_calls + message.tool_calls
    messages[-1] = Message(message.role, content, calls, parts=parts)


def _parts_of(message: Message) -> tuple[MessagePart, ...]:
    return message.parts or (message.content,)


def _check_results(messages: Sequence[Message]) -> None:
    call_ids: set[str] = set()
    for message in messages:
        call_ids.update(call.id for call in message.tool_calls)
        if message.role is MessageRole.TOOL and message.tool_call_id not in call_ids:
            raise InvalidInput.at(
                "messages",
                f"the tool_result for {message.tool_call_id[:80]!r} has no tool_use before it",
            )


def _check_last_turn(messages: Sequence[Message]) -> None:
    if messages and messages[-1].role is MessageRole.ASSISTANT:
        raise InvalidInput.at(
            "messages",
            "the last turn must be the user's; continuing an assistant turn is not supported",
        )


def _join(texts: "Iterator[str] | Sequence[str]") -> str:
    return _SEPARATOR.join(text for text in texts if text)
