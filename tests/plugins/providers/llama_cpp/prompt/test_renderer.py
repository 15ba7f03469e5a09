"""Hostile chat templates cost only their own model's requests: not the engine, not the host.

The templates run in the process that the engine renders them in; a program of its own starts it,
because forking is safe only in a process with one thread.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, ProviderFailed
from tests.support.llama_provider import complete, provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf

_ROOT = Path(__file__).resolve().parents[5]
_HOSTILE = {
    "F72 multiplication": "{{ 'a' * 2000000000 }}",
    "multiplication later": "{% set n = messages|length %}{{ 'a' * (n * 2000000000) }}",
    "exponent": "{{ 10 ** (10 ** 10) }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "center": "{{ 'a' | center(2000000000) }}",
    "replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "doubling": (
        "{% set s = namespace(v='a') %}{% for _ in range(60) %}"
        "{% set s.v = s.v ~ s.v %}{% endfor %}{{ s.v }}"
    ),
    "recursion": "{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "output": (
        "{% for a in range(99999) %}{% for b in range(99999) %}"
        "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}{% endfor %}"
    ),
    "nested brackets": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
}
_PROGRAM = """
import socket, sys
from plugins.providers.llama_cpp.prompt import renderer
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
renderer._TIMEOUT_S = 3.0
ours, theirs = socket.socketpair()
confined = renderer.start_renderer(theirs)
variables = {"messages": [{"content": 2 ** 70}]}
try:
    confined.render(sys.stdin.read(), variables)
except TemplateError as error:
    print("refused:", error)
print(confined.render("{{ messages[0].content }}", variables))
"""


@pytest.mark.parametrize("template", _HOSTILE.values(), ids=_HOSTILE)
def test_template_when_it_is_hostile_then_refused_and_the_next_is_rendered(template: str):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=template,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    refused, rendered = done.stdout.splitlines()
    assert refused.startswith("refused: the model's chat template")
    assert int(rendered) == 2**70


async def test_engine_when_template_takes_all_memory_then_only_its_requests_fail(tmp_path: Path):
    """F72: the engine goes on, other models answer, and what needs no template works."""
    bomb = "{{ 'a' * (messages|length * 2000000000) }}"
    files = {
        "bomb": write_tiny_gguf(tmp_path / "bomb.gguf", template=bomb),
        "tiny": write_tiny_gguf(tmp_path / "tiny.gguf"),
    }
    provider, _ = provider_for(tmp_path, files, threads=1)
    try:
        await provider.load("bomb")
        pid = provider.engine_pid("bomb")
        hostile, other = await asyncio.gather(
            complete(provider, request("x", model="bomb")),
            complete(provider, request("x", model="tiny")),
            return_exceptions=True,
        )
        assert isinstance(hostile, ProviderFailed)
        assert "exceeded its limits" in hostile.message
        assert not isinstance(other, ApplianceError | BaseException)
        assert provider.engine_pid("bomb") == pid
    finally:
        await provider.close()
