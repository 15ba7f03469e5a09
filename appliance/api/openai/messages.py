"""Converts the messages of a chat."""

from collections.abc import Iterable, Iterator

from appliance.api.openai.schemas import CalledFunction, MessageBody, PartBody, ToolCallBody
from appliance.domain.messages import Message, MessageRole, ToolCall
from appliance.errors import InvalidInput

_ROLES = {
    "system": MessageRole.SYSTEM,
    "developer": MessageRole.SYSTEM,
    "user": MessageRole.USER,
    "assistant": MessageRole.ASSISTANT,
    "tool": MessageRole.TOOL,
    "function": MessageRole.TOOL,
}


def convert_messages(bodies: Iterable[MessageBody]) -> tuple[Message, ...]:
    """The domain's messages. Raises InvalidInput for the first invalid message."""
    return tuple(_MessageConverter().convert(bodies))


class _MessageConverter:
    """Converts messages in order: the legacy role "function" refers to earlier ones by name."""

    def __init__(self) -> None:
        self._legacy_ids: dict[str, str] = {}

    def convert(self, bodies: Iterable[MessageBody]) -> Iterator[Message]:
        for index, body in enumerate(bodies):
            yield self._convert(f"messages[{index}]", index, body)

    def _convert(self, at: str, index: int, body: MessageBody) -> Message:
        role = _ROLES.get(body.role)
        if role is None:
            roles = ", ".join(_ROLES)
            raise InvalidInput.at(f"{at}.role", f"{body.role!r} is unknown; use one of: {roles}")
        if role is MessageRole.ASSISTANT:
            return self._convert_assistant(at, index, body)
        content = _text(f"{at}.content", body.content)
        if role is MessageRole.TOOL:
            return Message(role, content, tool_call_id=self._call_id(at, body))
        return Message(role, content)

    def _convert_assistant(self, at: str, index: int, body: MessageBody) -> Message:
        if body.audio is not None:
            raise InvalidInput.at(f"{at}.audio", "is not supported; send the transcript as text")
        calls = [
            _tool_call(f"{at}.tool_calls[{each}]", call)
            for each, call in enumerate(body.tool_calls or ())
        ]
        if body.function_call is not None:
            calls.append(self._add_legacy_call(index, body.function_call))
        content = body.content if body.content is not None else body.refusal
        if content is None and calls:
            content = ""
        return Message(MessageRole.ASSISTANT, _text(f"{at}.content", content), tuple(calls))

    def _add_legacy_call(self, index: int, call: CalledFunction) -> ToolCall:
        self._legacy_ids[call.name] = identity = f"call_{index}"
        return ToolCall(identity, call.name, call.arguments)

    def _call_id(self, at: str, body: MessageBody) -> str:
        """The id of the call that this tool message answers."""
        if body.role == "tool":
            if not body.tool_call_id:
                raise InvalidInput.at(f"{at}.tool_call_id", "is required for the role tool")
            return body.tool_call_id
        identity = self._legacy_ids.get(body.name or "")
        if identity is None:
            raise InvalidInput.at(f"{at}.name", "must be the name of an earlier `function_call`")
        return identity


def _tool_call(at: str, call: ToolCallBody) -> ToolCall:
    if call.function is None:
        raise InvalidInput.at(f"{at}.function", "is required: only functions can be called")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _text(at: str, content: str | list[PartBody] | None) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise InvalidInput.at(at, "is required")
    return "\n".join(_part(f"{at}[{index}]", part) for index, part in enumerate(content))


def _part(at: str, part: PartBody) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if part.type not in ("text", "refusal"):
        raise InvalidInput.at(at, f"parts of type {part.type!r} are not supported; send text")
    if text is None:
        raise InvalidInput.at(f"{at}.{part.type}", "is required")
    return text
