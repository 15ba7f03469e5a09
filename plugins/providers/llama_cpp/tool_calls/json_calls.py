"""Parses tool calls that are written as JSON objects."""

import json
import secrets
from collections.abc import Collection, Iterator
from typing import Any, cast

from appliance.domain.messages import ToolCall
from plugins.providers.llama_cpp.tool_calls.markers import ARGS_MARKER, CALL_ID_MARKER

_SEPARATORS = " \t\r\n;,"
_decoder = json.JSONDecoder()


def parse_json_call(text: str, names: Collection[str]) -> ToolCall | None:
    """Parse a text that is one call; None if it calls none of these functions."""
    try:
        return call_from_value(json.loads(text), names)
    except (ValueError, RecursionError):
        return None


def call_from_value(value: Any, names: Collection[str]) -> ToolCall | None:
    """As `call_of`, of a parsed value: `name` with `arguments` or `parameters`."""
    if not isinstance(value, dict):
        return None
    fields = cast(dict[str, Any], value)
    function = fields.get("function")
    if isinstance(function, dict):
        fields = cast(dict[str, Any], function)
    name, arguments = fields.get("name"), fields.get("arguments", fields.get("parameters", {}))
    return build_call(name, arguments, names)


def build_call(name: Any, arguments: Any, names: Collection[str]) -> ToolCall | None:
    """Build a call from arguments that are an object or its JSON text; None if they are not."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        # A lone surrogate can only be written escaped.
        text = json.dumps(arguments)
    except (ValueError, RecursionError):
        return None
    return ToolCall(f"call_{secrets.token_hex(12)}", name, text)


def parse_json_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """Parse a text of objects or lists of them; no calls if it holds anything else."""
    try:
        values = list(_decode_values(text))
    except (ValueError, RecursionError):
        return []
    flat = [each for value in values for each in _as_list(value)]
    calls = [call_from_value(value, names) for value in flat]
    return [call for call in calls if call] if all(calls) else []


def parse_mistral_calls(text: str, marker: str, names: Collection[str]) -> list[ToolCall]:
    """Parse the calls after a marker: a list of objects, or `name[ARGS]{…}` repeated."""
    inner = text.removeprefix(marker)
    calls = parse_json_calls(inner, names)
    parts = [part for part in inner.split(marker) if part.strip()]
    if calls:
        return calls
    parsed = [_parse_args_call(part, names) for part in parts]
    return [call for each in parsed for call in each] if all(parsed) else []


def _parse_args_call(text: str, names: Collection[str]) -> list[ToolCall]:
    """Parse `name[ARGS]{…}` or `name{…}`; no call if the text is neither."""
    name, _, rest = text.partition("{")
    name = name.strip().removesuffix(ARGS_MARKER).partition(CALL_ID_MARKER)[0].strip()
    try:
        arguments = json.loads("{" + rest)
    except (ValueError, RecursionError):
        return []
    call = build_call(name, arguments, names)
    return [call] if call else []


def _decode_values(text: str) -> Iterator[Any]:
    at = 0
    while text := text[at:].strip(_SEPARATORS):
        value, at = _decoder.raw_decode(text)
        yield value


def _as_list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]
