"""A chat's messages, from this dialect's roles and parts to the domain's."""

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


def messages_of(bodies: Iterable[MessageBody]) -> tuple[Message, ...]:
    """Raises InvalidInput for the first message that can't be understood."""
    return tuple(_Reader().read(bodies))


class _Reader:
    """Reads messages in their order: the legacy roles refer to earlier ones by name."""

    def __init__(self) -> None:
        self._legacy_ids: dict[str, str] = {}

    def read(self, bodies: Iterable[MessageBody]) -> Iterator[Message]:
        for index, body in enumerate(bodies):
            yield self._message(f"messages[{index}]", index, body)

    def _message(self, at: str, index: int, body: MessageBody) -> Message:
        role = _ROLES.get(body.role)
        if role is None:
            known = ", ".join(_ROLES)
            raise InvalidInput.at(f"{at}.role", f"{body.role!r} is none of: {known}")
        if role is MessageRole.ASSISTANT:
            return self._assistant(at, index, body)
        content = _text(f"{at}.content", body.content)
        if role is MessageRole.TOOL:
            return Message(role, content, tool_call_id=self._answered(at, body))
        return Message(role, content)

    def _assistant(self, at: str, index: int, body: MessageBody) -> Message:
        if body.audio is not None:
            raise InvalidInput.at(f"{at}.audio", "audio can't be read here; send its transcript")
        calls = [
            _tool_call(f"{at}.tool_calls[{each}]", call)
            for each, call in enumerate(body.tool_calls or ())
        ]
        if body.function_call is not None:
            calls.append(self._legacy_call(index, body.function_call))
        content = body.content if body.content is not None else body.refusal
        if content is None and calls:
            content = ""
        return Message(MessageRole.ASSISTANT, _text(f"{at}.content", content), tuple(calls))

    def _legacy_call(self, index: int, call: CalledFunction) -> ToolCall:
        self._legacy_ids[call.name] = identity = f"call_{index}"
        return ToolCall(identity, call.name, call.arguments)

    def _answered(self, at: str, body: MessageBody) -> str:
        """The id of the call that this message answers."""
        if body.role == "tool":
            if not body.tool_call_id:
                raise InvalidInput.at(f"{at}.tool_call_id", "is required in a tool's message")
            return body.tool_call_id
        identity = self._legacy_ids.get(body.name or "")
        if identity is None:
            raise InvalidInput.at(
                f"{at}.name", "must be the function that an earlier `function_call` asked for"
            )
        return identity


def _tool_call(at: str, call: ToolCallBody) -> ToolCall:
    if call.function is None:
        raise InvalidInput.at(f"{at}.function", "is required: only functions can be called here")
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
        raise InvalidInput.at(
            at, f"a part of type {part.type!r} can't be read here; this box's models read text"
        )
    if text is None:
        raise InvalidInput.at(f"{at}.{part.type}", "is required")
    return text
