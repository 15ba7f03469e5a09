"""Tool calls between DeepSeek's marks.

V3 and R1 write `function<sep>name` and the arguments in a fence of Markdown, V3.1 writes
`name<sep>{arguments}`; both between the same marks. One reader takes either.
"""

import re
from collections.abc import Mapping

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.tool_calls.json_calls import made_call
from plugins.providers.llama_cpp.tool_calls.markers import (
    CALL_BEGIN,
    CALLS_BEGIN,
    FENCED_END,
    SEPARATOR,
)

_KIND = "function"
_FENCED = re.compile(r"\s*(?P<name>\S+)\s*```(?:json)?(?P<arguments>.*?)(?:```)?\s*", re.DOTALL)


def fenced_call(text: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    """The one call of a text, marks included; None if it is none of these functions."""
    inner = text.removeprefix(CALLS_BEGIN).lstrip()
    inner = inner.removeprefix(CALL_BEGIN).removesuffix(FENCED_END)
    head, separator, rest = inner.partition(SEPARATOR)
    if not separator:
        return None
    if head.strip() != _KIND or rest.lstrip().startswith("{"):
        return made_call(head.strip(), rest, tools)
    found = _FENCED.fullmatch(rest)
    return made_call(found["name"], found["arguments"], tools) if found else None
