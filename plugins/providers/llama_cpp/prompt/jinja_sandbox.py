"""Compiles and renders chat templates in Jinja's sandbox, with the extensions they use."""

import json
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateError(Exception):
    """The template can't be compiled or rejects the messages; the text says why."""


class TemplateLimitExceeded(TemplateError):
    """The template took too much memory or time."""


def check_template(source: str) -> None:
    """Raises TemplateError for a syntax error."""
    _compile(source)


def render_template(source: str, variables: dict[str, Any]) -> str:
    """Render with these variables. Raises TemplateError."""
    try:
        return _compile(source).render(
            raise_exception=_raise_exception, strftime_now=_strftime_now, **variables
        )
    except TemplateError:
        raise
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TemplateError(f"the model's chat template failed: {error}") from error


@lru_cache(maxsize=2)
def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"the model's chat template has a syntax error: {error}") from error


class _Generation(Extension):
    """Renders the content of `{% generation %}`, which marks training text."""

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


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the model's chat template rejects the messages: {message}")


def _strftime_now(format_: str) -> str:
    return datetime.now().astimezone().strftime(format_)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
