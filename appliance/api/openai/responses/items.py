"""Reads the items of an input, in their order, as messages."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

from appliance.api.http.validation import convert_field
from appliance.api.openai.messages import convert_url
from appliance.api.openai.responses.call_items import CALL_TYPES, NonEmpty, read_call
from appliance.api.openai.responses.schemas import FormatBody, Item, TextBody
from appliance.api.openai.responses.server_items import SERVER_TYPES, describe_server_item
from appliance.api.openai.responses.tools import ToolSet, places
from appliance.domain.messages import MediaPart, Message, MessagePart, MessageRole, join_parts
from appliance.errors import InvalidInput

_SEPARATOR = "\n"
_ROLES = {
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
}
_TEXT_FIELDS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


class MessageItem(Struct):
    role: str
    content: str | list[Item]


class OutputItem(Struct):
    call_id: NonEmpty
    output: str | list[Item]


class LocalShellOutputItem(Struct):
    """Old clients send the id of the call as `id`."""

    output: str
    call_id: str | None = None
    id: str | None = None


class ShellOutcome(Struct):
    type: str
    exit_code: int | None = None


class ShellOutput(Struct):
    stdout: str
    stderr: str
    outcome: ShellOutcome


class ShellOutputItem(Struct):
    call_id: NonEmpty
    output: list[ShellOutput]


class PatchOutputItem(Struct):
    call_id: NonEmpty
    status: str
    output: str | None = None


class SearchOutputItem(Struct):
    """An output without `call_id` is of a search of the server's own."""

    tools: list[Item]
    call_id: str | None = None


class AdditionalToolsItem(Struct):
    tools: list[Item]


class UpdateItem(Struct):
    text: TextBody | None = None


class InputReader:
    """Reads one input. Its items may add to `tools` and change the `format` of the answer."""

    def __init__(self, tools: ToolSet) -> None:
        self.tools = tools
        self.format: FormatBody | None = None
        self._readers: dict[str, Callable[[str, Item], Iterator[Message]]] = {
            "message": self._message,
            "function_call_output": self._output,
            "custom_tool_call_output": self._output,
            "local_shell_call_output": self._local_shell_output,
            "shell_call_output": self._shell_output,
            "apply_patch_call_output": self._patch_output,
            "tool_search_output": self._search_output,
            "additional_tools": self._additional_tools,
            "configuration_update": self._configuration_update,
            "item_reference": self._item_reference,
            "reasoning": self._reasoning,
            **dict.fromkeys(CALL_TYPES, self._call),
            **dict.fromkeys(SERVER_TYPES, self._server_item),
        }

    def read(self, instructions: str | None, items: str | Sequence[Item]) -> tuple[Message, ...]:
        """The messages of the prompt. Raises InvalidInput naming the item."""
        head = [Message(MessageRole.SYSTEM, instructions)] if instructions else []
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        found = (each for place, item in places("input", items) for each in self._read(place, item))
        messages = (*head, *_merge_turns(found))
        _validate(messages)
        return messages

    def _read(self, place: str, item: Item) -> Iterator[Message]:
        kind = item.get("type") or "message"
        if not isinstance(kind, str):
            raise InvalidInput.at(f"{place}.type", "must be a string")
        return self._readers.get(kind, self._unknown)(place, item)

    def _message(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, MessageItem, place)
        role = _ROLES.get(body.role)
        if role is None:
            raise InvalidInput.at(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
        text, parts = _content(f"{place}.content", body.content, is_output=False)
        yield Message(role, text, parts=parts)

    def _call(self, place: str, item: Item) -> Iterator[Message]:
        call = read_call(place, item)
        if call is None:
            self.tools.ignore(place, item)
        else:
            yield Message(MessageRole.ASSISTANT, "", (call,))

    def _output(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, OutputItem, place)
        text, parts = _content(f"{place}.output", body.output, is_output=True)
        yield Message(MessageRole.TOOL, text, (), body.call_id, parts)

    def _local_shell_output(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, LocalShellOutputItem, place)
        yield Message(MessageRole.TOOL, body.output, (), body.call_id or body.id or "")

    def _shell_output(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, ShellOutputItem, place)
        yield Message(MessageRole.TOOL, _SEPARATOR.join(_shell_text(body)), (), body.call_id)

    def _patch_output(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, PatchOutputItem, place)
        text = f"{body.status}: {body.output}" if body.output else body.status
        yield Message(MessageRole.TOOL, text, (), body.call_id)

    def _search_output(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, SearchOutputItem, place)
        names = self.tools.add(f"{place}.tools", body.tools)
        if body.call_id:
            text = f"Tools found: {', '.join(names) or 'none'}"
            yield Message(MessageRole.TOOL, text, (), body.call_id)

    def _additional_tools(self, place: str, item: Item) -> Iterator[Message]:
        body = convert_field(item, AdditionalToolsItem, place)
        self.tools.add(f"{place}.tools", body.tools)
        return iter(())

    def _configuration_update(self, place: str, item: Item) -> Iterator[Message]:
        text = convert_field(item, UpdateItem, place).text
        if text and text.format:
            self.format = text.format
        return iter(())

    def _server_item(self, place: str, item: Item) -> Iterator[Message]:
        """What a tool of OpenAI's servers did, as text of the assistant."""
        text = describe_server_item(place, item)
        if text:
            yield Message(MessageRole.ASSISTANT, text)
        else:
            self.tools.ignore(place, item)

    def _item_reference(self, place: str, item: Item) -> Iterator[Message]:  # noqa: ARG002
        raise InvalidInput.at(
            f"{place}.type", "'item_reference' is not supported: send the item itself"
        )

    def _reasoning(self, place: str, item: Item) -> Iterator[Message]:  # noqa: ARG002
        """Reasoning of earlier turns is not part of the prompt."""
        return iter(())

    def _unknown(self, place: str, item: Item) -> Iterator[Message]:
        """A message of a type of its own, or something that only its server understands."""
        if item.get("role") in tuple(_ROLES) and isinstance(item.get("content"), str | list):
            body = convert_field(item, MessageItem, place)
            text, parts = _content(f"{place}.content", body.content, is_output=True)
            yield Message(_ROLES[body.role], text, parts=parts)
        else:
            self.tools.ignore(place, item)


def _shell_text(body: ShellOutputItem) -> Iterator[str]:
    for each in body.output:
        yield from filter(None, (each.stdout, each.stderr))
        code = each.outcome.exit_code
        yield f"[{each.outcome.type}]" if code is None else f"[exit code {code}]"


def _content(
    place: str, content: str | Sequence[Item], *, is_output: bool
) -> tuple[str, tuple[MessagePart, ...]]:
    """`content` and `parts` of a message; outputs may hold unknown parts, as placeholders."""
    if isinstance(content, str):
        return content, ()
    parts = (_part(at, part, is_output=is_output) for at, part in places(place, content))
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


def _merge_turns(messages: Iterable[Message]) -> Iterator[Message]:
    """Text and calls of one assistant turn become one message."""
    for is_assistant, group in groupby(messages, lambda each: each.role is MessageRole.ASSISTANT):
        turn = list(group)
        if not is_assistant or len(turn) == 1:
            yield from turn
            continue
        every = (part for each in turn for part in (each.parts or (each.content,)))
        text, parts = join_parts(every, _SEPARATOR)
        calls = tuple(call for each in turn for call in each.tool_calls)
        yield Message(MessageRole.ASSISTANT, text, calls, parts=parts)


def _validate(messages: Sequence[Message]) -> None:
    if not any(each.role in (MessageRole.USER, MessageRole.TOOL) for each in messages):
        raise InvalidInput.at("input", "must hold a message of the user or a tool output")
    call_ids: set[str] = set()
    for message in messages:
        call_ids.update(call.id for call in message.tool_calls)
        if message.role is MessageRole.TOOL and message.tool_call_id not in call_ids:
            raise InvalidInput.at(
                "input",
                f"the output for {message.tool_call_id[:80]!r} has no call before it",
            )
