"""Limits on the size of completions and embeddings, whatever model is to answer them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from appliance.config.settings import LimitSettings
from appliance.domain.completions import CompletionSpec
from appliance.errors import InvalidInput, PayloadTooLarge

MAX_SCHEMA_VALUES = 32_768
"""Values in the schemas of a request: its tools' and that of its output."""
_CONTAINERS = {dict, list}
_Place = str | tuple["_Place", str | int]


def check_size(spec: CompletionSpec, limits: LimitSettings) -> None:
    """Raises PayloadTooLarge for too many messages, too much text or schema.

    Raises InvalidInput for text that is not Unicode and integers that have no encoding.
    """
    if len(spec.messages) > limits.messages:
        raise _too_large("messages", len(spec.messages), limits.messages, "messages")
    size = sum(_size(field, text) for field, text in _texts(spec))
    if size > limits.prompt_bytes:
        field = "messages" if spec.raw is None else "prompt"
        raise _too_large(field, size, limits.prompt_bytes, "bytes")
    _check_schemas(spec)


def check_embedded_texts(texts: Sequence[str], limits: LimitSettings) -> None:
    """Each text has the limit of a prompt: together they are as many requests.

    Raises PayloadTooLarge, and InvalidInput for text that is not Unicode.
    """
    for at, text in enumerate(texts):
        size = _size(f"input[{at}]", text)
        if size > limits.prompt_bytes:
            raise _too_large(f"input[{at}]", size, limits.prompt_bytes, "bytes")


def _size(field: str, text: str) -> int:
    """Bytes in UTF-8."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        reason = f"is not valid Unicode at character {error.start}"
        raise InvalidInput.at(field, reason) from error


def _check_schemas(spec: CompletionSpec) -> None:
    count = 0
    # A place is a field, or a pair of the place around it and a key or index.
    pending: list[tuple[_Place, Any]] = list(_schemas(spec))
    while pending:
        place, value = pending.pop()
        count += len(value)
        if count > MAX_SCHEMA_VALUES:
            raise _too_large(_path(place), count, MAX_SCHEMA_VALUES, "values")
        for key, inner in _items(value):
            if type(inner) in _CONTAINERS:
                pending.append(((place, key), inner))
            elif isinstance(inner, int) and not -(2**63) <= inner < 2**63:
                raise InvalidInput.at(_path((place, key)), "integers must fit in 64 signed bits")


def _items(value: Any) -> Iterable[tuple[str | int, Any]]:
    return value.items() if isinstance(value, Mapping) else enumerate(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _schemas(spec: CompletionSpec) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for at, tool in enumerate(spec.tools):
        yield f"tools[{at}].parameters", tool.parameters
    if spec.output.schema is not None:
        yield "output.schema", spec.output.schema


def _path(place: _Place) -> str:
    keys: list[str | int] = []
    while not isinstance(place, str):
        place, key = place
        keys.append(key)
    inner = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in reversed(keys))
    return place + "".join(inner)


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
