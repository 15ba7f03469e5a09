"""The arguments of a tool call, for APIs that want them as an object."""

from typing import Any, cast

import msgspec

from appliance.domain.messages import ToolCall
from appliance.errors import InvalidInput


def arguments(call: ToolCall) -> dict[str, Any]:
    """The object that the call's JSON text holds. Raises InvalidInput if it is none."""
    try:
        found = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput.at(
            "tool_calls", f"the arguments of the call {call.id!r} are no JSON object"
        )
    return cast("dict[str, Any]", found)
