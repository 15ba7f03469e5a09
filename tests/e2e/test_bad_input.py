"""Invalid requests: a precise error for each, and the server goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server_process import ServerProcess, command, running_server

GOOD: dict[str, Any] = {"prompt": "Say hello", "task_type": "documentation", "persona_config": {}}
MANY_FILES = [{"path": f"f{number}.py", "content": ""} for number in range(10_000)]

WRONG: dict[str, tuple[dict[str, Any] | bytes, int, str]] = {
    "malformed JSON": (b'{"prompt": ', 400, "VALIDATION_ERROR"),
    "not an object": (b"[1, 2]", 400, "VALIDATION_ERROR"),
    "empty body": (b"", 400, "VALIDATION_ERROR"),
    "no prompt": ({"persona_config": {}}, 400, "VALIDATION_ERROR"),
    "blank prompt": ({**GOOD, "prompt": " \n"}, 400, "VALIDATION_ERROR"),
    "wrong type": ({**GOOD, "prompt": 7}, 400, "VALIDATION_ERROR"),
    "unknown persona": ({**GOOD, "persona_config": {"persona": "king"}}, 400, "VALIDATION_ERROR"),
    "unknown task type": ({**GOOD, "task_type": "juggle"}, 400, "VALIDATION_ERROR"),
    "10 MB prompt": ({**GOOD, "prompt": "a" * 10_000_000}, 413, "PAYLOAD_TOO_LARGE"),
    "10,000 files": ({**GOOD, "files": MANY_FILES}, 413, "PAYLOAD_TOO_LARGE"),
    "traversal": (
        {**GOOD, "files": [{"path": "../../etc/passwd", "content": ""}]},
        400,
        "VALIDATION_ERROR",
    ),
    "absolute name": (
        {**GOOD, "files": [{"path": "/etc/passwd", "content": ""}]},
        400,
        "VALIDATION_ERROR",
    ),
    "binary content": (
        {**GOOD, "files": [{"path": "a.bin", "content": "\x00\x01"}]},
        400,
        "VALIDATION_ERROR",
    ),
    "not UTF-8": (b'{"prompt": "\xff\xfe", "persona_config": {}}', 400, "VALIDATION_ERROR"),
    "unknown model": ({**GOOD, "model": "gpt-99"}, 400, "MODEL_NOT_FOUND"),
    "too long for the model": (
        {**GOOD, "prompt": "word " * 60_000},
        400,
        "CONTEXT_LENGTH_EXCEEDED",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_execute_when_the_input_is_wrong_then_a_precise_error(
    name: str, client: httpx.Client
) -> None:
    body, status, code = WRONG[name]
    content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/execute", headers=headers, **content)
    error = answer.json()
    assert (answer.status_code, error["error"]["code"]) == (status, code), answer.text[:500]
    fields = (error["error"]["message"], error["detail"], error["message"], error["timestamp"])
    assert all((*fields, error["request_id"]))
    assert client.get("/health").status_code == 200


def test_task_when_of_another_user_then_not_found(
    client: httpx.Client, server: ServerProcess
) -> None:
    for words in (["user", "add", "other", "--email", "o@example.com", "--password-stdin"],):
        command(*words, "--data-dir", server.data_dir, input="a long password\n")
    key = command("key", "create", "--user", "other", "--data-dir", server.data_dir).stdout.strip()
    client.post("/api/v1/execute", json={**GOOD, "task_id": "mine"})
    with server.client(key) as other:
        answer = other.get("/api/v1/tasks/mine")
        assert answer.status_code == 404
        assert other.post("/api/v1/tasks/mine/cancel").status_code == 404
        assert answer.json()["error"]["code"] == "RESOURCE_NOT_FOUND"


@pytest.fixture
def server_with_broken_model(starter_model: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A model file that was whole when it was added and is cut short now."""
    model = tmp_path / "model.gguf"
    model.write_bytes(starter_model.read_bytes())
    data = tmp_path / "data"
    command("model", "add", model, "--in-place", "--alias", "model", "--data-dir", data)
    model.write_bytes(model.read_bytes()[:1_000_000])
    with running_server(data) as server:
        server.make_key()
        yield server


def test_model_when_truncated_then_tasks_fail_with_the_reason_and_the_server_goes_on(
    server_with_broken_model: ServerProcess,
) -> None:
    with server_with_broken_model.client() as client:
        answer = client.post("/api/v1/execute", json=GOOD)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "MODEL_UNAVAILABLE"
        assert client.get("/health").status_code == 200
        assert client.get("/health/readiness").status_code == 503


def test_model_add_when_the_file_is_truncated_then_refused_with_the_numbers(
    starter_model: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(starter_model.read_bytes()[:1_000_000])
    done = command("model", "add", short, "--data-dir", tmp_path / "data", check=False)
    assert done.returncode == 1
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr
