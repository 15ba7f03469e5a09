"""The model's own chat template, rendered in Jinja's sandbox, or ChatML where there is none."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.domain.messages import Message, MessageRole

_CHATML_STOP = "<|im_end|>"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TemplateError(Exception):
    """The model's template does not take these messages; the text says why."""


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue.

    `stops` are the strings that end an answer beside the model's own end tokens;
    `note` says where the model's template could not be used.
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

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text. Raises TemplateError if the template refuses the messages.

        Some templates take no system message; there it goes in front of the first
        user message.
        """
        try:
            return self._render(messages)
        except TemplateError:
            merged = _without_system(messages)
            if merged is None:
                raise
            return self._render(merged)

    def _render(self, messages: Sequence[Message]) -> str:
        plain = [{"role": message.role.value, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=plain,
                add_generation_prompt=True,
                tools=None,
                raise_exception=_refuse,
                strftime_now=_now,
                **self._names,
            )
        except TemplateError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateError(f"the model's chat template failed: {error}") from error


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
