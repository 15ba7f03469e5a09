"""Hostile chat templates cost only their own model's requests: not the engine, not the host.

The templates run in the process that the engine renders them in; a program of its own starts it,
because forking is safe only in a process with one thread.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, ModelUnavailable, ProviderFailed
from plugins.providers.llama_cpp.provider import LlamaCppProvider
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


_BOMB_FOR_ONE = (
    "{% for m in messages %}{{ m.content }}{{ 'a' * 2000000000 if m.content == 'x' }}{% endfor %}"
)
_BOMB_FOR_ALL = "{{ 'a' * (messages|length * 2000000000) }}"


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[LlamaCppProvider]:
    """A model whose template takes all memory for one text, one for all texts, and a good one."""
    templates = {"one": _BOMB_FOR_ONE, "all": _BOMB_FOR_ALL}
    files = {
        name: write_tiny_gguf(tmp_path / f"{name}.gguf", template=template)
        for name, template in templates.items()
    }
    files["tiny"] = write_tiny_gguf(tmp_path / "tiny.gguf")
    provider, _ = provider_for(tmp_path, files, threads=1)
    yield provider
    await provider.close()


async def test_engine_when_template_takes_all_memory_then_only_its_requests_fail(
    provider: LlamaCppProvider,
):
    """F72: the engine goes on, other models answer, and what needs no template works."""
    await provider.load("one")
    pid = provider.engine_pid("one")
    hostile, other = await asyncio.gather(
        complete(provider, request("x", model="one")),
        complete(provider, request("x", model="tiny")),
        return_exceptions=True,
    )
    assert isinstance(hostile, ProviderFailed)
    assert "exceeded its limits" in hostile.message
    assert not isinstance(other, ApplianceError | BaseException)
    assert provider.engine_pid("one") == pid
    await complete(provider, request("y", model="one"))


async def test_model_when_its_template_takes_all_memory_for_any_text_then_refused_at_load(
    provider: LlamaCppProvider,
):
    """F72"""
    with pytest.raises(ModelUnavailable, match="the model's chat template exceeded its limits"):
        await provider.load("all")
    await complete(provider, request("x", model="tiny"))


async def test_model_when_its_template_loses_texts_then_refused_at_load(tmp_path: Path):
    """F14"""
    lossy = "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}"
    files = {"lossy": write_tiny_gguf(tmp_path / "lossy.gguf", template=lossy)}
    provider, _ = provider_for(tmp_path, files, threads=1)
    with pytest.raises(ModelUnavailable, match="chat template loses texts of users; use a file"):
        await provider.load("lossy")
    await provider.close()
