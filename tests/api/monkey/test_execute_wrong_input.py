"""Invalid bodies of /execute: each has a precise error, and the server goes on."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.application import open_api, settings_with

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[httpx.AsyncClient]:
    """One server for the whole table: no row may affect the next one."""
    folder = tmp_path_factory.mktemp("server")
    async with open_api(folder / "server.db", settings_with()) as api, api.client() as client:
        yield client


WRONG: dict[str, tuple[dict[str, Any] | bytes, int, str, str]] = {
    "malformed JSON": (b'{"prompt": ', 400, "VALIDATION_ERROR", "body"),
    "not UTF-8": (b'{"prompt": "\xff"}', 400, "VALIDATION_ERROR", "body"),
    "nested too deeply": (b'{"context":' * 5_000, 400, "VALIDATION_ERROR", "body"),
    "deep but closed": (
        b'{"prompt":"x","context":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        400,
        "VALIDATION_ERROR",
        "body",
    ),
    "empty body": (b"", 400, "VALIDATION_ERROR", "body"),
    "an array": (b"[]", 400, "VALIDATION_ERROR", "body"),
    "null": (b"null", 400, "VALIDATION_ERROR", "body"),
    "no prompt": ({}, 400, "VALIDATION_ERROR", "prompt"),
    "empty prompt": ({"prompt": "  "}, 400, "VALIDATION_ERROR", "prompt"),
    "a command alone": ({"prompt": "/dev"}, 400, "VALIDATION_ERROR", "prompt"),
    "prompt of a wrong type": ({"prompt": 7}, 400, "VALIDATION_ERROR", "prompt"),
    "files of a wrong type": ({"prompt": "x", "files": {}}, 400, "VALIDATION_ERROR", "files"),
    "a file without content": (
        {"prompt": "x", "files": [{"path": "a.py"}]},
        400,
        "VALIDATION_ERROR",
        "files[0].content",
    ),
    "a file of a wrong type": (
        {"prompt": "x", "files": [{"path": "a", "content": ""}, {"path": 1, "content": ""}]},
        400,
        "VALIDATION_ERROR",
        "files[1].path",
    ),
    "a file without a name": (
        {"prompt": "x", "files": [{"content": ""}]},
        400,
        "VALIDATION_ERROR",
        "files[0].path",
    ),
    "a path that leaves": (
        {"prompt": "x", "files": [{"name": "../../etc/passwd", "content": ""}]},
        400,
        "VALIDATION_ERROR",
        "files[0].path",
    ),
    "an unknown persona": ({"prompt": "x", "persona": "king"}, 400, "VALIDATION_ERROR", "persona"),
    "an unknown nested persona": (
        {"prompt": "x", "persona_config": {"persona": "king"}},
        400,
        "VALIDATION_ERROR",
        "persona_config.persona",
    ),
    "an unknown task type": (
        {"prompt": "x", "task_type": "juggle"},
        400,
        "VALIDATION_ERROR",
        "task_type",
    ),
    "an unknown strategy": (
        {"prompt": "x", "quantum_config": {"collapse_strategy": "guess"}},
        400,
        "VALIDATION_ERROR",
        "collapse_strategy",
    ),
    "too many branches": (
        {"prompt": "x", "quantum_config": {"n": 9}},
        400,
        "VALIDATION_ERROR",
        "branches",
    ),
    "a wild temperature": (
        {"prompt": "x", "context": {"temperature": 9}},
        400,
        "VALIDATION_ERROR",
        "context.temperature",
    ),
    "a context of a wrong type": (
        {"prompt": "x", "context": 3},
        400,
        "VALIDATION_ERROR",
        "context",
    ),
    "a 10 MB prompt": ({"prompt": "a" * 10_000_000}, 413, "PAYLOAD_TOO_LARGE", "prompt"),
    "10,000 files": (
        {"prompt": "x", "files": [{"path": f"{n}.py", "content": ""} for n in range(10_000)]},
        413,
        "PAYLOAD_TOO_LARGE",
        "files",
    ),
    "a task id with a slash": (
        {"prompt": "x", "task_id": "a/b"},
        400,
        "VALIDATION_ERROR",
        "task_id",
    ),
    "labels of a wrong type": ({"prompt": "x", "labels": "a"}, 400, "VALIDATION_ERROR", "labels"),
    "a label of a wrong type": (
        {"prompt": "x", "labels": ["a", 1]},
        400,
        "VALIDATION_ERROR",
        "labels[1]",
    ),
    "a label that is too long": (
        {"prompt": "x", "labels": ["a", "x" * 201]},
        400,
        "VALIDATION_ERROR",
        "labels[1]",
    ),
    "a blank label": ({"prompt": "x", "labels": [" "]}, 400, "VALIDATION_ERROR", "labels"),
    "two labels in one": ({"prompt": "x", "labels": ["a,b"]}, 400, "VALIDATION_ERROR", "labels"),
    "65 labels": (
        {"prompt": "x", "labels": [str(n) for n in range(65)]},
        400,
        "VALIDATION_ERROR",
        "labels",
    ),
    "an unpaired surrogate": (b'{"prompt": "\\ud800"}', 400, "VALIDATION_ERROR", "prompt"),
}


@pytest.mark.parametrize("path", ["/api/v1/execute", "/api/v1/execute/stream"])
@pytest.mark.parametrize("name", WRONG)
async def test_execute_when_the_input_is_wrong_then_the_field_and_the_reason(
    name: str, path: str, shared_client: httpx.AsyncClient
) -> None:
    sent, status, code, field = WRONG[name]
    body: dict[str, Any] = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
    answer = await shared_client.post(path, headers={"Content-Type": "application/json"}, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text[:300]
    assert error["details"].get("field") == field, error
    assert field.split("[", maxsplit=1)[0] in error["message"]
    if sent == b"":
        assert error["message"] == "body: must be a JSON object"
    assert answer.json()["detail"] == answer.json()["message"] == error["message"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
