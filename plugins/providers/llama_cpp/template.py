"""The model's own chat template, rendered in Jinja's sandbox, or ChatML where there is none."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp import tools as words
from plugins.providers.llama_cpp.protocol import CallForm

_CHATML_STOP = "<|im_end|>"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What a template's source holds, and in which form its model then writes calls.
_MARKS = (
    ("<function=", None),
    (words.CALL_START, CallForm.TAGGED),
    ("[TOOL_CALLS]", CallForm.LISTED),
    ("<|python_tag|>", CallForm.BARE),
    ('"parameters": ', CallForm.BARE),
)
_PROBE = ("probename", "probetext", "probevalue", "proberesult")
_PROBE_ID = "probecall"


class TemplateError(Exception):
    """The model's template does not take these messages; the text says why."""


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue.

    `stops` are the strings that end an answer beside the model's own end tokens;
    `note` says where the model's template could not be used. `form` is how the model
    writes tool calls; `knows_tools` whether its own template takes them.
    """

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.stops: tuple[str, ...] = ()
        self.note = ""
        self._names = {"bos_token": bos, "eos_token": eos}
        compiled = _compile(source) if source else None
        if compiled is None:
            compiled, self.stops = _environment().from_string(_CHATML), (_CHATML_STOP,)
            self.note = f"{'unreadable' if source else 'no'} chat template, ChatML is used"
        self._template = compiled
        known = _form(source or "")
        self.form = known or CallForm.TAGGED
        self.marks_arguments = "[ARGS]" in (source or "")
        self.knows_tools = known is not None and self._takes_tools()

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt's text. Raises TemplateError if the template refuses the messages.

        Some templates take no system message; there it goes in front of the first
        user message. Tools and calls are put into words where the template has none.
        """
        if not self.knows_tools:
            messages = words.in_generic_words(messages)
            if tools:
                messages, tools = words.with_system(messages, words.introduction(tools)), ()
        elif self.form is CallForm.BARE:
            messages = words.one_call_each(messages)
        try:
            return self._render(messages, tools)
        except TemplateError:
            merged = _without_system(messages)
            if merged is None:
                raise
            return self._render(merged, tools)

    def _takes_tools(self) -> bool:
        """Whether a tool, a call and its result leave their traces in the prompt."""
        name, text, value, result = _PROBE
        call = ToolCall(_PROBE_ID, name, json.dumps({"key": value}))
        messages = (
            Message(MessageRole.USER, "question"),
            Message(MessageRole.ASSISTANT, "", (call,)),
            Message(MessageRole.TOOL, result, tool_call_id=_PROBE_ID),
        )
        try:
            rendered = self._render(messages, (Tool(name, text),))
        except TemplateError:
            return False
        return all(trace in rendered for trace in _PROBE)

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        try:
            return self._template.render(
                messages=list(self._plain(messages)),
                add_generation_prompt=True,
                tools=[words.described(tool) for tool in tools] or None,
                raise_exception=_refuse,
                strftime_now=_now,
                **self._names,
            )
        except TemplateError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateError(f"the model's chat template failed: {error}") from error

    def _plain(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        """Messages as templates expect them: in the form of OpenAI's API, arguments as values."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        for message in messages:
            plain: dict[str, Any] = {"role": message.role.value, "content": message.content}
            if message.tool_calls:
                plain["tool_calls"] = [self._call(call) for call in message.tool_calls]
            if message.role is MessageRole.TOOL:
                plain["tool_call_id"] = self._id(message.tool_call_id)
                plain["name"] = names.get(message.tool_call_id, "")
            yield plain

    def _call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": call.name, "arguments": words.arguments(call)}
        return {"type": "function", "id": self._id(call.id), "function": function}

    def _id(self, number: str) -> str:
        return words.short_id(number) if self.form is CallForm.LISTED else number


class _Generation(Extension):
    """The tag `generation` marks training text in some templates; its content stays."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    return environment


def _compile(source: str) -> jinja2.Template | None:
    """None if this Jinja can't read it."""
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError:
        return None


def _form(source: str) -> CallForm | None:
    """How a model with this template writes calls, None if in no form that is known here."""
    if "tools" not in source:
        return None
    return next((form for mark, form in _MARKS if mark in source), None)


def _without_system(messages: Sequence[Message]) -> list[Message] | None:
    """System messages put in front of the first user message; None where that changes nothing."""
    system = [message.content for message in messages if message.role is MessageRole.SYSTEM]
    rest = [message for message in messages if message.role is not MessageRole.SYSTEM]
    if not system or not rest or rest[0].role is not MessageRole.USER:
        return None
    first = Message(MessageRole.USER, "\n\n".join([*system, rest[0].content]))
    return [first, *rest[1:]]


def _refuse(message: str) -> None:
    raise TemplateError(f"the model's chat template refuses these messages: {message}")


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
