"""Models whose chat template wants all memory or all time (F72): others' models answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.bystander import add_user, under_attack
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_gguf import write_tiny_gguf

TEMPLATES = {
    "memory": "{{ 'a' * 2000000000 }}",
    "time": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
}
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def server(
    starter_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("templates")
    for name, template in TEMPLATES.items():
        model = write_tiny_gguf(home / f"{name}.gguf", template=template)
        command("model", "add", model, "--in-place", "--alias", name, "--data-dir", home / "data")
    default = {"MONKEY_CODER__MODELS__DEFAULT": "model"}
    with running_server(home / "data", starter_model, **default) as server:
        server.key = add_user(server, "attacker")
        server.wait_ready()
        yield server


def test_template_when_it_wants_everything_then_others_models_answer(
    server: ServerProcess,
) -> None:
    def chat(name: str) -> httpx.Response:
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        with server.client() as client:
            return client.post("/v1/chat/completions", json=body, timeout=DEADLINE_S)

    key = add_user(server, "bystander")
    with under_attack(server, key), ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(chat, [*TEMPLATES, *TEMPLATES]))
    assert all(answer.status_code in (400, 503) for answer in answers), [a.text for a in answers]
