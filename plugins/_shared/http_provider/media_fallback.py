"""Sends placeholders instead of images and files to models that turn out to read text only.

Which models see is not known beforehand. A refusal is learned, so that an image in the history
does not make a conversation unusable; one in the last user message is the question itself, and
its refusal is passed on.
"""

import re

from msgspec.structs import replace

from appliance.domain.messages import CompletionRequest, MessageRole
from appliance.errors import ContextLengthExceeded, InvalidInput

_MAX_REMEMBERED_MODELS = 1000
_MEDIA = re.compile(
    r"image|multi-?modal|vision|audio|\bfile\b|document|mmproj|content (?:part|type)|"
    r"must be a string|should be a valid string|invalid type: sequence",
    re.IGNORECASE,
)


class MediaFallback:
    """Remembers the models of one provider that read text only."""

    def __init__(self) -> None:
        self._text_models: set[str] = set()

    def adapt(self, request: CompletionRequest) -> CompletionRequest:
        """The request as it suits what is known of its model."""
        return _without_media(request) if request.model in self._text_models else request

    def learn_from_error(
        self, request: CompletionRequest, error: InvalidInput
    ) -> CompletionRequest | None:
        """The request to try next, if the error says that the model reads text only."""
        if isinstance(error, ContextLengthExceeded) or not _MEDIA.search(error.message):
            return None
        changed = _without_media(request)
        if changed == request:
            return None
        if len(self._text_models) < _MAX_REMEMBERED_MODELS:
            self._text_models.add(request.model)
        return changed


def _without_media(request: CompletionRequest) -> CompletionRequest:
    """Placeholders for everything but what is in the last message of the user, if it is last."""
    last = len(request.messages) - 1
    messages = tuple(
        message
        if not message.parts or (index == last and message.role is MessageRole.USER)
        else replace(message, parts=())
        for index, message in enumerate(request.messages)
    )
    return replace(request, messages=messages)
