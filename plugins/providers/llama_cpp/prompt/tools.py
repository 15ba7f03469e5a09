"""Prepares tools, calls and results for a chat template, also for one without tool support.

The generic format, for models whose template takes no tools: the system message lists
the functions as JSON, one per line; a call is `<tool_call>{"name", "arguments"}</tool_call>`
in the assistant's text, and its result `<tool_response>…</tool_response>` in the next
user message.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.tool_calls.markers import (
    CALL_END,
    CALL_START,
    DEEPSEEK_CALL_BEGIN,
    DEEPSEEK_CALL_END,
    DEEPSEEK_CALLS_BEGIN,
    DEEPSEEK_CALLS_END,
    DEEPSEEK_SEPARATOR,
    JSON_FENCE_END,
    JSON_FENCE_START,
)

_RESULT_START, _RESULT_END = "<tool_response>", "</tool_response>"
_SHORT_ID_LENGTH = 9
_INSTRUCTIONS = (
    "You may call functions. These are available, one JSON object per line, with the "
    "JSON schema of their parameters:\n{tools}\n"
    "To call one, write exactly:\n"
)
_ARGUMENTS = "{<arguments as JSON>}"
# Formats for which instructions can be written into the system message.
_EXAMPLES = {
    ToolCallFormat.HERMES: (
        f'{CALL_START}\n{{"name": "<function>", "arguments": {_ARGUMENTS}}}\n{CALL_END}'
    ),
    ToolCallFormat.DEEPSEEK_V3: (
        f"{DEEPSEEK_CALLS_BEGIN}{DEEPSEEK_CALL_BEGIN}function{DEEPSEEK_SEPARATOR}<function>\n"
        f"{JSON_FENCE_START}{_ARGUMENTS}{JSON_FENCE_END}{DEEPSEEK_CALL_END}{DEEPSEEK_CALLS_END}"
    ),
    ToolCallFormat.DEEPSEEK_V31: (
        f"{DEEPSEEK_CALLS_BEGIN}{DEEPSEEK_CALL_BEGIN}<function>{DEEPSEEK_SEPARATOR}{_ARGUMENTS}{DEEPSEEK_CALL_END}{DEEPSEEK_CALLS_END}"
    ),
}
FORMATS_WITH_INSTRUCTIONS = frozenset(_EXAMPLES) - {ToolCallFormat.HERMES}


def describe_tool(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it: as in OpenAI's API."""
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def tool_instructions(
    tools: Sequence[Tool], format_: ToolCallFormat = ToolCallFormat.HERMES
) -> str:
    """The system message's text about the tools and how to call one in this format."""
    lines = (json.dumps(describe_tool(tool)["function"], ensure_ascii=False) for tool in tools)
    return _INSTRUCTIONS.format(tools="\n".join(lines)) + _EXAMPLES[format_]


def append_to_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Append the text to the leading system message, which is added if there is none."""
    if messages and messages[0].role is MessageRole.SYSTEM:
        first = Message(MessageRole.SYSTEM, f"{messages[0].content}\n\n{text}")
        return [first, *messages[1:]]
    return [Message(MessageRole.SYSTEM, text), *messages]


def render_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Turn calls and results into plain text; consecutive results into one user message."""
    result: list[Message] = []
    after_tool = False
    for message in messages:
        if message.role is MessageRole.TOOL:
            text = f"{_RESULT_START}\n{message.content}\n{_RESULT_END}"
            if after_tool:
                text = f"{result.pop().content}\n{text}"
            result.append(Message(MessageRole.USER, text))
        else:
            result.append(Message(message.role, "\n".join(_text_parts(message))))
        after_tool = message.role is MessageRole.TOOL
    return result


def _text_parts(message: Message) -> Iterator[str]:
    if message.content or not message.tool_calls:
        yield message.content
    for call in message.tool_calls:
        text = json.dumps(
            {"name": call.name, "arguments": parse_arguments(call)}, ensure_ascii=False
        )
        yield f"{CALL_START}\n{text}\n{CALL_END}"


def parse_arguments(call: ToolCall) -> Any:
    """The arguments as a value; the text itself if it is not JSON."""
    try:
        return json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments


def shorten_call_id(call_id: str) -> str:
    """An id of nine letters and digits, as Mistral's templates require."""
    if len(call_id) == _SHORT_ID_LENGTH and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_SHORT_ID_LENGTH]


def split_text_and_calls(messages: Sequence[Message]) -> list[Message]:
    """Split messages with text and calls in two, for templates that show one of them only."""
    result: list[Message] = []
    for message in messages:
        if message.content and message.tool_calls:
            result.append(Message(message.role, message.content))
            result.append(Message(message.role, "", message.tool_calls))
        else:
            result.append(message)
    return result


def split_parallel_calls(messages: Sequence[Message]) -> list[Message]:
    """Split messages with several calls into one per call, each followed by its result.

    For templates that take one call per message.
    """
    split_ids = {
        call.id
        for message in messages
        if len(message.tool_calls) > 1
        for call in message.tool_calls
    }
    results: dict[str, list[Message]] = {}
    for message in messages:
        if message.role is MessageRole.TOOL and message.tool_call_id in split_ids:
            results.setdefault(message.tool_call_id, []).append(message)
    split: list[Message] = []
    for message in messages:
        if len(message.tool_calls) > 1:
            for at, call in enumerate(message.tool_calls):
                split.append(Message(message.role, "" if at else message.content, (call,)))
                split += results.pop(call.id, ())
        elif message.role is not MessageRole.TOOL or message.tool_call_id not in split_ids:
            split.append(message)
    return split
