"""The keywords of a JSON schema that count something."""

from typing import Any

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.json_schema.normalize import Schema

_MOST = 1_000_000


def count(schema: Schema, key: str, place: str) -> int | None:
    """A count, None where the schema has none. Raises InvalidInput."""
    value: Any = schema.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput.at(f"{place}.{key}", "must be a whole number from 0 on")
    if value > _MOST:
        raise InvalidInput.at(f"{place}.{key}", f"must be at most {_MOST}")
    return value


def bounds(schema: Schema, least: str, most: str, place: str) -> tuple[int, int | None]:
    """From how many to how many. Raises InvalidInput."""
    low, high = count(schema, least, place) or 0, count(schema, most, place)
    if high is not None and high < low:
        raise InvalidInput.at(f"{place}.{most}", f"is less than {least}")
    return low, high
