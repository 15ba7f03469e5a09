"""The model's own chat template, rendered in Jinja's sandbox, or ChatML where there is none."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt import tools as words
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    Program,
    TemplateError,
    program,
    rendered,
)
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.tool_calls import markers as marks

_CHATML_STOP = "<|im_end|>"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What a template's source holds, and in which form its model then writes calls.
_MARKS = (
    ((marks.CALLS_BEGIN, marks.SEPARATOR, marks.FENCE_START.strip()), CallForm.FENCED),
    ((marks.CALLS_BEGIN, marks.SEPARATOR), CallForm.PARTED),
    ((marks.CALL_START, marks.FUNCTION_START, marks.PARAMETER_START), CallForm.XML),
    ((marks.FUNCTION_START,), None),
    (("<arg_key>",), None),
    ((marks.CALL_START,), CallForm.TAGGED),
    ((marks.LIST_MARK,), CallForm.LISTED),
    ((marks.CODE_MARK,), CallForm.BARE),
    (('"parameters": ',), CallForm.BARE),
)
_PROBE = ("probename", "probetext", "probevalue", "proberesult")
_PROBE_ID = "probecall"


class _Habit(Struct, frozen=True):
    """What a template expects of a call, and whether it tells the model of the tools."""

    tells_of_tools: bool = True
    arguments_as_text: bool = False
    content_is_null: bool = False


_HABITS = tuple(
    _Habit(tells, as_text, null)
    for tells in (True, False)
    for null in (False, True)
    for as_text in (False, True)
)


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue.

    `stops` are the strings that end an answer beside the model's own end tokens;
    `note` says where the model's template could not be used. `form` is how the model
    writes tool calls; `knows_tools` whether its own template takes calls and results.
    """

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.stops: tuple[str, ...] = ()
        self.note = ""
        self._names = {"bos_token": bos, "eos_token": eos}
        self._program = self._chosen(source)
        known = _form(source or "")
        self._habit = _Habit()
        self.marks_arguments = marks.ARGUMENTS_MARK in (source or "")
        self.form = known or CallForm.TAGGED
        self.knows_tools = known is not None and self._takes_tools()
        if not self.knows_tools:
            self.form = CallForm.TAGGED

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt's text. Raises TemplateError if the template refuses the messages.

        Some templates take no system message; there it goes in front of the first
        user message. Tools and calls are put into words where the template has none.
        """
        if not self.knows_tools:
            messages = words.in_generic_words(messages)
        elif self.form is CallForm.BARE:
            messages = words.one_call_each(messages)
        elif self._habit.content_is_null:
            messages = words.apart_from_text(messages)
        if tools and not (self.knows_tools and self._habit.tells_of_tools):
            introduction = words.introduction(tools, self.form)
            messages, tools = words.with_system(messages, introduction), ()
        try:
            return self._render(messages, tools)
        except TemplateError:
            merged = _without_system(messages)
            if merged is None:
                raise
            return self._render(merged, tools)

    def _chosen(self, source: str | None) -> Program:
        try:
            if source:
                return program(source)
        except TemplateError:
            self.note = "unreadable chat template, ChatML is used"
        else:
            self.note = "no chat template, ChatML is used"
        self.stops = (_CHATML_STOP,)
        return program(_CHATML)

    def _takes_tools(self) -> bool:
        """Whether a tool, a call and its result leave their traces in the prompt.

        Some templates want a call's arguments as text, or no content beside it, and some
        leave it to the system message to tell of the tools: the first habit that suits.
        """
        name, _, value, result = _PROBE
        for habit in _HABITS:
            self._habit = habit
            probed = self._probed()
            wanted = _PROBE if habit.tells_of_tools else (name, value, result)
            introduced = habit.tells_of_tools or self.form in words.MAY_BE_INTRODUCED
            if introduced and _as_python(value) not in probed and _holds(probed, wanted):
                return True
        self._habit = _Habit()
        return False

    def _probed(self) -> str:
        """A prompt with a tool, a call and its result; "" if the template refuses them."""
        name, text, value, result = _PROBE
        call = ToolCall(_PROBE_ID, name, json.dumps({"key": value}))
        messages = (
            Message(MessageRole.USER, "question"),
            Message(MessageRole.ASSISTANT, "", (call,)),
            Message(MessageRole.TOOL, result, tool_call_id=_PROBE_ID),
        )
        try:
            return self._render(messages, (Tool(name, text),))
        except TemplateError:
            return ""

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        return rendered(
            self._program,
            messages=list(self._plain(messages)),
            add_generation_prompt=True,
            tools=[words.described(tool) for tool in tools] or None,
            **self._names,
        )

    def _plain(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        """Messages as templates expect them: in the form of OpenAI's API, arguments as values."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        for message in messages:
            plain: dict[str, Any] = {"role": message.role.value, "content": message.content}
            if message.tool_calls:
                plain["tool_calls"] = [self._call(call) for call in message.tool_calls]
                if self._habit.content_is_null and not message.content:
                    plain["content"] = None
            if message.role is MessageRole.TOOL:
                plain["tool_call_id"] = self._id(message.tool_call_id)
                plain["name"] = names.get(message.tool_call_id, "")
            yield plain

    def _call(self, call: ToolCall) -> dict[str, Any]:
        told = call.arguments if self._habit.arguments_as_text else words.arguments(call)
        function = {"name": call.name, "arguments": told}
        return {"type": "function", "id": self._id(call.id), "function": function}

    def _id(self, number: str) -> str:
        return words.short_id(number) if self.form is CallForm.LISTED else number


def _form(source: str) -> CallForm | None:
    """How a model with this template writes calls, None if in no form that is known here."""
    if "tools" not in source and "tool_calls" not in source:
        return None
    found = (form for marks_of_it, form in _MARKS if all(each in source for each in marks_of_it))
    return next(found, None)


def _holds(text: str, traces: Sequence[str]) -> bool:
    return all(trace in text for trace in traces)


def _as_python(value: str) -> str:
    """How a value looks that a template shows although it expects text: not as JSON."""
    return repr({"key": value})


def _without_system(messages: Sequence[Message]) -> list[Message] | None:
    """System messages put in front of the first user message; None where that changes nothing."""
    system = [message.content for message in messages if message.role is MessageRole.SYSTEM]
    rest = [message for message in messages if message.role is not MessageRole.SYSTEM]
    if not system or not rest or rest[0].role is not MessageRole.USER:
        return None
    first = Message(MessageRole.USER, "\n\n".join([*system, rest[0].content]))
    return [first, *rest[1:]]
