"""Messages to prompt tokens, so that nobody's text can pose as the template's own marks."""

import secrets
from collections.abc import Sequence

from appliance.domain.messages import Message
from plugins.providers.llama_cpp.native import Model
from plugins.providers.llama_cpp.template import ChatTemplate


class PromptMaker:
    """Renders and tokenizes for one model. May be used by one thread at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._first = model.first_token
        self._template = ChatTemplate(
            model.chat_template, bos=model.special_text("bos"), eos=model.special_text("eos")
        )
        self.stops, self.note = self._template.stops, self._template.note

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The exact tokens that the model will read. Raises TemplateError or NativeError."""
        masked, originals = self._mask(messages)
        tokens = self._tokenize(self._template.render(masked), originals)
        if self._first is not None and tokens[:1] != [self._first]:
            tokens.insert(0, self._first)
        return tokens

    def _mask(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """Put a placeholder where a content holds the text of special tokens.

        Such a content is tokenized apart from the template, as plain text. The others
        are tokenized together with it, exactly as the model was trained.
        """
        originals: dict[str, str] = {}
        masked: list[Message] = []
        for message in messages:
            content = message.content
            if self._holds_special(content):
                content = f"content{secrets.token_hex(16)}"
                originals[content] = message.content
            masked.append(Message(message.role, content))
        return masked, originals

    def _holds_special(self, text: str) -> bool:
        plain = self._model.tokenize(text, parse_special=False)
        return plain != self._model.tokenize(text, parse_special=True)

    def _tokenize(self, rendered: str, originals: dict[str, str]) -> list[int]:
        tokens: list[int] = []
        for placeholder, content in originals.items():
            before, found, after = rendered.partition(placeholder)
            if found:
                tokens += self._model.tokenize(before, parse_special=True)
                tokens += self._model.tokenize(content, parse_special=False)
                rendered = after
        return tokens + self._model.tokenize(rendered, parse_special=True)
