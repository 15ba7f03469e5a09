"""The arguments of a tool call as an object, for APIs that don't take JSON text."""

from typing import Any, cast

import msgspec

from appliance.domain.messages import ToolCall
from appliance.errors import InvalidInput


def decode_arguments(call: ToolCall) -> dict[str, Any]:
    """Decode the call's JSON text. Raises InvalidInput unless it is an object."""
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput.at(
            "tool_calls", f"the arguments of call {call.id!r} must be a JSON object"
        )
    return cast("dict[str, Any]", value)
