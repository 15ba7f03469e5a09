"""Keeps special tokens in callers' texts from being tokenized as special tokens."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, cast

from appliance.domain.messages import Message, Tool, ToolCall

_PLACEHOLDER = "content{}"
_SECRET_BYTES = 16
_PATTERN = re.compile(r"(content[0-9a-f]{32})")


class SpecialTokenGuard:
    """Replaces texts that contain a special token's text with random placeholders.

    After rendering, such a text is tokenized by itself, as plain text. All other texts are
    tokenized together with the template, exactly as the model was trained.
    """

    def __init__(
        self, contains_special: Callable[[str], bool], *, raw_arguments: bool = False
    ) -> None:
        """`raw_arguments`: the template renders strings among a call's arguments unquoted."""
        self._contains_special = contains_special
        self._raw_arguments = raw_arguments
        self._originals: dict[str, str] = {}
        self._placeholders: dict[str, str] = {}

    def mask_message(self, message: Message) -> Message:
        return Message(
            message.role,
            self.mask_text(message.content),
            tuple(self._mask_call(call) for call in message.tool_calls),
            self.mask_text(message.tool_call_id),
        )

    def mask_tool(self, tool: Tool) -> Tool:
        if not self._contains_special(json.dumps([tool.description, tool.parameters], default=str)):
            return tool
        description = self._mask_json_string(tool.description)
        return Tool(tool.name, description, cast(dict[str, Any], self.mask_value(tool.parameters)))

    def mask_value(self, value: Any) -> Any:
        """Mask a value whose strings and names the template renders as JSON."""
        if isinstance(value, str):
            return self._mask_json_string(value)
        if isinstance(value, Mapping):
            pairs = cast(Mapping[str, Any], value).items()
            return {self._mask_json_string(key): self.mask_value(each) for key, each in pairs}
        if isinstance(value, list | tuple):
            return [self.mask_value(each) for each in cast(list[Any], value)]
        return value

    def mask_text(self, text: str) -> str:
        """The text itself, or a placeholder for it."""
        return self._placeholder_for(text) if self._contains_special(text) else text

    def split_rendered(self, render_template: str) -> list[tuple[str, bool]]:
        """Split a rendered prompt into (text, whether it may contain special tokens)."""
        pieces = _PATTERN.split(render_template)
        return [
            (self._originals.get(piece, piece), piece not in self._originals) for piece in pieces
        ]

    def _mask_json_string(self, text: str) -> str:
        if not self._contains_special(text):
            return text
        return self._placeholder_for(json.dumps(text, ensure_ascii=False)[1:-1])

    def _placeholder_for(self, original: str) -> str:
        """One placeholder per text: equal ids must remain equal."""
        placeholder = self._placeholders.get(original)
        if placeholder is None:
            placeholder = _PLACEHOLDER.format(secrets.token_hex(_SECRET_BYTES))
            self._placeholders[original] = placeholder
            self._originals[placeholder] = original
        return placeholder

    def _mask_call(self, call: ToolCall) -> ToolCall:
        """Ids and names come from the caller too."""
        arguments = call.arguments
        if self._contains_special(arguments):
            try:
                arguments = json.dumps(
                    self._mask_arguments(json.loads(arguments)), ensure_ascii=False
                )
            except (ValueError, RecursionError):
                arguments = self.mask_text(arguments)
        return ToolCall(self.mask_text(call.id), self.mask_text(call.name), arguments)

    def _mask_arguments(self, value: Any) -> Any:
        if not self._raw_arguments or not isinstance(value, dict):
            return self.mask_value(value)
        pairs = cast(dict[str, Any], value).items()
        return {
            self.mask_text(key): self.mask_text(each)
            if isinstance(each, str)
            else self.mask_value(each)
            for key, each in pairs
        }
