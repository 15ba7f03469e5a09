"""Tools in the words that go into a prompt: for templates that know them, and for those that don't.

The generic format, for models whose template takes no tools: the system message lists
the functions as JSON, one a line; a call is `<tool_call>{"name", "arguments"}</tool_call>`
in the assistant's text, and its result `<tool_response>…</tool_response>` in the next
user message.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.tool_calls.markers import (
    CALL_BEGIN,
    CALL_END,
    CALL_START,
    CALLS_BEGIN,
    CALLS_END,
    FENCE_END,
    FENCE_START,
    FENCED_END,
    SEPARATOR,
)

_RESULT_START, _RESULT_END = "<tool_response>", "</tool_response>"
_SHORT_ID = 9
_OFFER = (
    "You may call functions. These are available, one JSON object per line, with the "
    "JSON schema of their parameters:\n{tools}\n"
    "To call one, write exactly:\n"
)
_ARGUMENTS = "{<arguments as JSON>}"
# The forms whose templates may leave it to the system message to tell of the tools.
_EXAMPLES = {
    CallForm.TAGGED: (
        f'{CALL_START}\n{{"name": "<function>", "arguments": {_ARGUMENTS}}}\n{CALL_END}'
    ),
    CallForm.FENCED: (
        f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}<function>\n"
        f"{FENCE_START}{_ARGUMENTS}{FENCE_END}{FENCED_END}{CALLS_END}"
    ),
    CallForm.PARTED: (
        f"{CALLS_BEGIN}{CALL_BEGIN}<function>{SEPARATOR}{_ARGUMENTS}{FENCED_END}{CALLS_END}"
    ),
}
MAY_BE_INTRODUCED = frozenset(_EXAMPLES) - {CallForm.TAGGED}


def described(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates expect it: in the form of OpenAI's API."""
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def introduction(tools: Sequence[Tool], form: CallForm = CallForm.TAGGED) -> str:
    """What the system message says of the tools, and of how this form calls one."""
    lines = (json.dumps(described(tool)["function"], ensure_ascii=False) for tool in tools)
    return _OFFER.format(tools="\n".join(lines)) + _EXAMPLES[form]


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with this text at the end of the leading system message."""
    if messages and messages[0].role is MessageRole.SYSTEM:
        first = Message(MessageRole.SYSTEM, f"{messages[0].content}\n\n{text}")
        return [first, *messages[1:]]
    return [Message(MessageRole.SYSTEM, text), *messages]


def in_generic_words(messages: Sequence[Message]) -> list[Message]:
    """Calls and results as plain text; results that follow each other as one user message."""
    found: list[Message] = []
    after_result = False
    for message in messages:
        if message.role is MessageRole.TOOL:
            text = f"{_RESULT_START}\n{message.content}\n{_RESULT_END}"
            if after_result:
                text = f"{found.pop().content}\n{text}"
            found.append(Message(MessageRole.USER, text))
        else:
            found.append(Message(message.role, "\n".join(_said(message))))
        after_result = message.role is MessageRole.TOOL
    return found


def _said(message: Message) -> Iterator[str]:
    if message.content or not message.tool_calls:
        yield message.content
    for call in message.tool_calls:
        text = json.dumps({"name": call.name, "arguments": arguments(call)}, ensure_ascii=False)
        yield f"{CALL_START}\n{text}\n{CALL_END}"


def arguments(call: ToolCall) -> Any:
    """The arguments as a value; what is no JSON stays the text that it is."""
    try:
        return json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments


def short_id(number: str) -> str:
    """Nine letters and digits, which some templates demand of a call's id."""
    if len(number) == _SHORT_ID and number.isascii() and number.isalnum():
        return number
    return hashlib.sha256(number.encode()).hexdigest()[:_SHORT_ID]


def apart_from_text(messages: Sequence[Message]) -> list[Message]:
    """Turns with a text and calls taken apart: for templates that show one of the two."""
    found: list[Message] = []
    for message in messages:
        if message.content and message.tool_calls:
            found.append(Message(message.role, message.content))
            found.append(Message(message.role, "", message.tool_calls))
        else:
            found.append(message)
    return found


def one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Turns with several calls taken apart, each call followed by its result.

    For templates that know one call a turn.
    """
    found: list[Message] = []
    results = [message for message in messages if message.role is MessageRole.TOOL]
    moved: set[int] = set()
    for message in messages:
        if id(message) in moved:
            continue
        if len(message.tool_calls) <= 1:
            found.append(message)
            continue
        for at, call in enumerate(message.tool_calls):
            content = "" if at else message.content
            found.append(Message(message.role, content, (call,)))
            answers = [each for each in results if each.tool_call_id == call.id]
            found += answers
            moved.update(id(each) for each in answers)
    return found
