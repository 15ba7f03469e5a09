"""What tools of Anthropic's servers did earlier in a conversation, as text for the model."""

from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from appliance.api.anthropic.schemas import Block
from appliance.api.http.validation import convert_field

_USES = frozenset({"server_tool_use", "mcp_tool_use"})
_RESULT_SUFFIX = "_tool_result"
_READABLE = frozenset({"text", "title", "url", "stdout", "stderr"})
_MAX_DEPTH = 8


class ServerUseBlock(Struct):
    name: str
    input: dict[str, Any]


class CompactionBlock(Struct):
    """A summary of earlier turns; None if only its server can read it."""

    content: str | None = None


def describe_server_block(place: str, block: Block) -> str:
    """The text of a block of the assistant's that is no text; "" if it has none to read."""
    kind = str(block.get("type"))
    if kind in _USES:
        use = convert_field(block, ServerUseBlock, place)
        return f"[used {use.name} with {msgspec.json.encode(use.input).decode()}]"
    if kind.endswith(_RESULT_SUFFIX):
        found = "\n".join(_readable_texts(block.get("content"), _MAX_DEPTH))
        return f"[result]\n{found}" if found else ""
    if kind == "compaction":
        return convert_field(block, CompactionBlock, place).content or ""
    return ""


def _readable_texts(value: Any, depth: int) -> Iterator[str]:
    """The texts in a result, whose shape depends on the tool."""
    if isinstance(value, str) and depth == _MAX_DEPTH:
        yield value
    elif isinstance(value, list) and depth:
        for each in cast("list[Any]", value):
            yield from _readable_texts(each, depth - 1)
    elif isinstance(value, dict) and depth:
        for name, each in cast("dict[str, Any]", value).items():
            if name in _READABLE and isinstance(each, str) and each:
                yield each
            elif isinstance(each, list | dict):
                yield from _readable_texts(each, depth - 1)
