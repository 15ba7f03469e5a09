"""Nobody's text can pose as the template's own marks: texts that try wait behind placeholders."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, cast

from appliance.domain.messages import Message, Tool, ToolCall

_PLACEHOLDER = "content{}"
_SECRET_BYTES = 16
_PATTERN = re.compile(r"(content[0-9a-f]{32})")


class Mask:
    """Puts placeholders where a text holds the text of special tokens.

    Such a text is tokenized apart from the template, as plain text. The others are
    tokenized together with it, exactly as the model was trained.
    """

    def __init__(
        self, holds_special: Callable[[str], bool], *, raw_arguments: bool = False
    ) -> None:
        """With `raw_arguments` the texts among a call's arguments are not rendered as JSON."""
        self._holds_special = holds_special
        self._raw_arguments = raw_arguments
        self._originals: dict[str, str] = {}
        self._placeholders: dict[str, str] = {}

    def message(self, message: Message) -> Message:
        return Message(
            message.role,
            self.text(message.content),
            tuple(self._call(call) for call in message.tool_calls),
            self.text(message.tool_call_id),
        )

    def tool(self, tool: Tool) -> Tool:
        if not self._holds_special(json.dumps([tool.description, tool.parameters], default=str)):
            return tool
        described = self._within_json(tool.description)
        return Tool(tool.name, described, cast(dict[str, Any], self.value(tool.parameters)))

    def value(self, value: Any) -> Any:
        """A JSON value whose texts and names will be rendered as JSON."""
        if isinstance(value, str):
            return self._within_json(value)
        if isinstance(value, Mapping):
            pairs = cast(Mapping[str, Any], value).items()
            return {self._within_json(key): self.value(each) for key, each in pairs}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in cast(list[Any], value)]
        return value

    def text(self, text: str) -> str:
        """The text itself, or a placeholder for it."""
        return self._hidden(text) if self._holds_special(text) else text

    def parts(self, rendered: str) -> list[tuple[str, bool]]:
        """The rendered prompt in order, each with whether it is the template's own."""
        pieces = _PATTERN.split(rendered)
        return [
            (self._originals.get(piece, piece), piece not in self._originals) for piece in pieces
        ]

    def _within_json(self, text: str) -> str:
        if not self._holds_special(text):
            return text
        return self._hidden(json.dumps(text, ensure_ascii=False)[1:-1])

    def _hidden(self, original: str) -> str:
        """Equal texts wait behind one placeholder: ids must still match each other."""
        placeholder = self._placeholders.get(original)
        if placeholder is None:
            placeholder = _PLACEHOLDER.format(secrets.token_hex(_SECRET_BYTES))
            self._placeholders[original] = placeholder
            self._originals[placeholder] = original
        return placeholder

    def _call(self, call: ToolCall) -> ToolCall:
        """Ids and names are short, but they too come from outside."""
        arguments = call.arguments
        if self._holds_special(arguments):
            try:
                arguments = json.dumps(self._arguments(json.loads(arguments)), ensure_ascii=False)
            except (ValueError, RecursionError):
                arguments = self.text(arguments)
        return ToolCall(self.text(call.id), self.text(call.name), arguments)

    def _arguments(self, value: Any) -> Any:
        if not self._raw_arguments or not isinstance(value, dict):
            return self.value(value)
        pairs = cast(dict[str, Any], value).items()
        return {
            self.text(key): self.text(each) if isinstance(each, str) else self.value(each)
            for key, each in pairs
        }
