"""From turns made of content blocks to the domain's messages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.api.anthropic.schemas import Block, MessageBody, Role
from appliance.api.http.validation import located
from appliance.domain.messages import Message, MessageRole, ToolCall
from appliance.errors import InvalidInput

_BETWEEN = "\n\n"
_DROPPED = frozenset({"thinking", "redacted_thinking"})
_FAILED = "The tool failed: "


class TextBlock(Struct):
    text: str


class ToolUseBlock(Struct):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(Struct):
    tool_use_id: str
    content: str | list[Block] | None = None
    is_error: bool = False


Known = TextBlock | ToolUseBlock | ToolResultBlock
_KINDS: dict[str, type[Known]] = {
    "text": TextBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}
_ALLOWED = {
    Role.USER: frozenset({"text", "tool_result"}),
    Role.ASSISTANT: frozenset({"text", "tool_use"}),
    Role.SYSTEM: frozenset({"text"}),
}
_ONLY_TEXT = frozenset({"text"})


def conversation(
    system: str | list[Block] | None, turns: Sequence[MessageBody]
) -> tuple[Message, ...]:
    """The whole prompt. Raises InvalidInput naming the block at fault."""
    messages: list[Message] = []
    if text := text_of("system", system):
        messages.append(Message(MessageRole.SYSTEM, text))
    for index, turn in enumerate(turns):
        for message in _turn(f"messages[{index}]", turn):
            _append(messages, message)
    _check_results(messages)
    _check_end(messages)
    return tuple(messages)


def text_of(place: str, content: str | list[Block] | None) -> str:
    """The text of blocks that may hold nothing else."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = _blocks(place, content, _ONLY_TEXT)
    return _joined(block.text for block in blocks if isinstance(block, TextBlock))


def _turn(place: str, turn: MessageBody) -> Iterator[Message]:
    content = turn.content
    given = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = list(_blocks(f"{place}.content", given, _ALLOWED[turn.role]))
    yield from _READERS[turn.role](place, blocks)


def _user(place: str, blocks: list[Known]) -> Iterator[Message]:
    """The results of tools, then what the user says besides."""
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    for block in results:
        yield Message(MessageRole.TOOL, _result(block), tool_call_id=block.tool_use_id)
    text = _joined(block.text for block in blocks if isinstance(block, TextBlock))
    if text:
        yield Message(MessageRole.USER, text)
    elif not results:
        raise InvalidInput.at(f"{place}.content", "must not be empty")


def _assistant(place: str, blocks: list[Known]) -> Iterator[Message]:  # noqa: ARG001
    text = _joined(block.text for block in blocks if isinstance(block, TextBlock))
    calls = tuple(_call(block) for block in blocks if isinstance(block, ToolUseBlock))
    if text or calls:
        yield Message(MessageRole.ASSISTANT, text, calls)


def _system(place: str, blocks: list[Known]) -> Iterator[Message]:  # noqa: ARG001
    if text := _joined(block.text for block in blocks if isinstance(block, TextBlock)):
        yield Message(MessageRole.SYSTEM, text)


_READERS: dict[Role, Callable[[str, list[Known]], Iterator[Message]]] = {
    Role.USER: _user,
    Role.ASSISTANT: _assistant,
    Role.SYSTEM: _system,
}


def _call(block: ToolUseBlock) -> ToolCall:
    return ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())


def _result(block: ToolResultBlock) -> str:
    return f"{_FAILED}{block.content}" if block.is_error else str(block.content)


def _blocks(place: str, given: Sequence[Block], allowed: frozenset[str]) -> Iterator[Known]:
    for index, block in enumerate(given):
        here = f"{place}[{index}]"
        kind = str(block.get("type"))
        if kind in _DROPPED and allowed is _ALLOWED[Role.ASSISTANT]:
            continue
        if kind not in allowed:
            known = ", ".join(sorted(allowed))
            raise InvalidInput.at(
                f"{here}.type", f"{kind[:40]!r} is not possible here on this box; use {known}"
            )
        yield _converted(here, block, _KINDS[kind])


def _converted(place: str, block: Block, kind: type[Known]) -> Known:
    try:
        found = msgspec.convert(block, kind)
    except msgspec.ValidationError as error:
        within = str(error).partition(" - at `$")[2].rstrip("`")
        raise InvalidInput.at(*located(f"{place}{within}", str(error))) from None
    if isinstance(found, ToolResultBlock):
        found.content = text_of(f"{place}.content", found.content)
    return found


def _append(messages: list[Message], message: Message) -> None:
    """Turns of the same side in a row are one turn."""
    last = messages[-1] if messages else None
    mergeable = message.role in (MessageRole.USER, MessageRole.ASSISTANT)
    if last is None or last.role is not message.role or not mergeable:
        messages.append(message)
        return
    messages[-1] = Message(
        message.role, _joined((last.content, message.content)), last.tool_calls + message.tool_calls
    )


def _check_results(messages: Sequence[Message]) -> None:
    asked: set[str] = set()
    for message in messages:
        asked.update(call.id for call in message.tool_calls)
        if message.role is MessageRole.TOOL and message.tool_call_id not in asked:
            raise InvalidInput.at(
                "messages",
                f"the tool_result for {message.tool_call_id[:80]!r} answers no tool_use before it",
            )


def _check_end(messages: Sequence[Message]) -> None:
    if messages and messages[-1].role is MessageRole.ASSISTANT:
        raise InvalidInput.at(
            "messages",
            "the last turn must be the user's: an answer that is begun can't be continued here",
        )


def _joined(texts: "Iterator[str] | Sequence[str]") -> str:
    return _BETWEEN.join(text for text in texts if text)
