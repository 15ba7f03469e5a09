"""Limits on the size of a completion's request, whatever model is to answer it."""

from collections.abc import Iterator

from appliance.config.settings import LimitSettings
from appliance.domain.completions import CompletionSpec
from appliance.errors import InvalidInput, PayloadTooLarge


def check_size(spec: CompletionSpec, limits: LimitSettings) -> None:
    """Raises PayloadTooLarge for too many messages or too much text, InvalidInput for no text."""
    if len(spec.messages) > limits.messages:
        raise _too_large("messages", len(spec.messages), limits.messages, "messages")
    size = 0
    for field, text in _texts(spec):
        try:
            size += len(text.encode())
        except UnicodeEncodeError as error:
            reason = f"is not valid Unicode at character {error.start}"
            raise InvalidInput.at(field, reason) from error
    if size > limits.prompt_bytes:
        field = "messages" if spec.raw is None else "prompt"
        raise _too_large(field, size, limits.prompt_bytes, "bytes")


def _texts(spec: CompletionSpec) -> Iterator[tuple[str, str]]:
    """All texts of the prompt, with their places."""
    if spec.raw is not None:
        yield "prompt", spec.raw.text
        yield "suffix", spec.raw.suffix or ""
    for at, message in enumerate(spec.messages):
        yield f"messages[{at}].content", message.content
        for index, call in enumerate(message.tool_calls):
            yield f"messages[{at}].tool_calls[{index}]", call.name
            yield f"messages[{at}].tool_calls[{index}]", call.arguments
    for at, tool in enumerate(spec.tools):
        yield f"tools[{at}].description", tool.description


def _too_large(field: str, size: int, limit: int, unit: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{field}: {size} {unit} exceed the limit of {limit}",
        details={"field": field, "size": size, "limit": limit},
    )
