"""Converts the messages of a chat."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from appliance.api.openai.schemas import (
    AudioBody,
    CalledFunction,
    FileBody,
    ImageBody,
    MessageBody,
    PartBody,
    ToolCallBody,
)
from appliance.domain.messages import (
    MediaPart,
    Message,
    MessagePart,
    MessageRole,
    ToolCall,
    join_parts,
)
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
        text, parts = _content(f"{at}.content", body.content, role)
        call_id = self._call_id(at, body) if role is MessageRole.TOOL else ""
        return Message(role, text, (), call_id, parts)

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
        text, parts = _content(f"{at}.content", content, MessageRole.ASSISTANT)
        return Message(MessageRole.ASSISTANT, text, tuple(calls), parts=parts)

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


def _content(
    at: str, content: str | list[PartBody] | None, role: MessageRole
) -> tuple[str, tuple[MessagePart, ...]]:
    """`content` and `parts` of the message."""
    if isinstance(content, str):
        return content, ()
    if content is None:
        raise InvalidInput.at(at, "is required")
    parts = (_part(f"{at}[{index}]", part, role) for index, part in enumerate(content))
    return join_parts(parts, "\n")


def _part(at: str, part: PartBody, role: MessageRole) -> MessagePart:
    match part:
        case PartBody(type="text", text=str(text)) | PartBody(type="refusal", refusal=str(text)):
            return text
        case PartBody(type="image_url", image_url=ImageBody(url=url)):
            return convert_url("image", url)
        case PartBody(type="input_audio", input_audio=AudioBody(data=data, format=form)):
            return MediaPart("audio", f"audio/{form}", data)
        case PartBody(type="file", file=FileBody(file_data=str(data), filename=name)):
            return replace(convert_url("document", data), name=name or "")
        case PartBody(type="text" | "refusal" | "image_url" | "input_audio"):
            raise InvalidInput.at(f"{at}.{part.type}", "is required")
        case _ if role in (MessageRole.TOOL, MessageRole.ASSISTANT):
            return MediaPart(part.type[:40])
        case _:
            raise InvalidInput.at(at, f"parts of type {part.type[:40]!r} are not supported")


def convert_url(kind: str, url: str) -> MediaPart:
    """The part at a URL; a data URL holds it."""
    head, comma, data = url.partition(",")
    if not (url.startswith("data:") and comma):
        return MediaPart(kind, url=url)
    return MediaPart(kind, head.removeprefix("data:").partition(";")[0], data)
