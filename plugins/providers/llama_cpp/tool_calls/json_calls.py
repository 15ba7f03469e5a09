"""The JSON in which models write tool calls."""

import json
import secrets
from collections.abc import Collection, Iterator
from typing import Any, cast

from appliance.domain.messages import ToolCall
from plugins.providers.llama_cpp.tool_calls.markers import ARGUMENTS_MARK, ID_MARK

_BETWEEN = " \t\r\n;,"
_decoder = json.JSONDecoder()


def call_of(text: str, names: Collection[str]) -> ToolCall | None:
    """The call that this JSON object asks for, None if it is none of these functions."""
    try:
        return call_in(json.loads(text), names)
    except (ValueError, RecursionError):
        return None


def call_in(value: Any, names: Collection[str]) -> ToolCall | None:
    """As `call_of`, of a parsed value: `name` with `arguments` or `parameters`."""
    if not isinstance(value, dict):
        return None
    found = cast(dict[str, Any], value)
    function = found.get("function")
    if isinstance(function, dict):
        found = cast(dict[str, Any], function)
    name, arguments = found.get("name"), found.get("arguments", found.get("parameters", {}))
    return made_call(name, arguments, names)


def made_call(name: Any, arguments: Any, names: Collection[str]) -> ToolCall | None:
    """Arguments come as an object, or as the JSON text of one."""
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
        # Half a surrogate pair can only stand there escaped.
        text = json.dumps(arguments)
    except (ValueError, RecursionError):
        return None
    return ToolCall(f"call_{secrets.token_hex(12)}", name, text)


def row_of_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls of a whole text of objects or lists of them; none if it holds anything else."""
    try:
        values = list(_values(text))
    except (ValueError, RecursionError):
        return []
    flat = [each for value in values for each in _each(value)]
    calls = [call_in(value, names) for value in flat]
    return [call for call in calls if call] if all(calls) else []


def listed_calls(text: str, mark: str, names: Collection[str]) -> list[ToolCall]:
    """The calls behind a mark: a list of objects, or `name[ARGS]{…}` once or more often."""
    inner = text.removeprefix(mark)
    found = row_of_calls(inner, names)
    parts = [part for part in inner.split(mark) if part.strip()]
    marked = [] if found else [_marked_call(part, names) for part in parts]
    return found or [call for calls in marked for call in calls] * all(marked)


def _marked_call(text: str, names: Collection[str]) -> list[ToolCall]:
    """The call in `name[ARGS]{…}` or `name{…}`; none if the text is neither."""
    name, _, rest = text.partition("{")
    name = name.strip().removesuffix(ARGUMENTS_MARK).partition(ID_MARK)[0].strip()
    try:
        arguments = json.loads("{" + rest)
    except (ValueError, RecursionError):
        return []
    call = made_call(name, arguments, names)
    return [call] if call else []


def _values(text: str) -> Iterator[Any]:
    at = 0
    while text := text[at:].strip(_BETWEEN):
        value, at = _decoder.raw_decode(text)
        yield value


def _each(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]
