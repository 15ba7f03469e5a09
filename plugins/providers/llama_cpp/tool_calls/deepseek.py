"""Parses DeepSeek's tool calls.

V3 and R1 write `function<sep>name` and the arguments in a Markdown fence, V3.1 writes
`name<sep>{arguments}`, both between the same markers. One parser takes either.
"""

import re
from collections.abc import Mapping

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.tool_calls.json_calls import build_call
from plugins.providers.llama_cpp.tool_calls.markers import (
    DEEPSEEK_CALL_BEGIN,
    DEEPSEEK_CALL_END,
    DEEPSEEK_CALLS_BEGIN,
    DEEPSEEK_SEPARATOR,
)

_KIND = "function"
_FENCED = re.compile(r"\s*(?P<name>\S+)\s*```(?:json)?(?P<arguments>.*?)(?:```)?\s*", re.DOTALL)


def parse_deepseek_call(text: str, tools: Mapping[str, Tool]) -> ToolCall | None:
    """Parse a text that is one call, markers included; None if it calls none of these tools."""
    inner = text.removeprefix(DEEPSEEK_CALLS_BEGIN).lstrip()
    inner = inner.removeprefix(DEEPSEEK_CALL_BEGIN).removesuffix(DEEPSEEK_CALL_END)
    head, separator, rest = inner.partition(DEEPSEEK_SEPARATOR)
    if not separator:
        return None
    if head.strip() != _KIND or rest.lstrip().startswith("{"):
        return build_call(head.strip(), rest, tools)
    match = _FENCED.fullmatch(rest)
    return build_call(match["name"], match["arguments"], tools) if match else None
