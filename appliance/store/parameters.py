"""Parameters of statements in the types that every engine takes."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from appliance.errors import InvalidInput


def to_columns(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values as columns hold them: a bool is 0 or 1, an enum its text.

    Raises InvalidInput for a text with a NUL character.
    """
    return {name: _to_column(name, value) for name, value in params.items()}


def _to_column(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput.at(name, "contains a NUL character; send text without it")
        return value.value if isinstance(value, Enum) else value
    return int(value) if isinstance(value, bool) else value
