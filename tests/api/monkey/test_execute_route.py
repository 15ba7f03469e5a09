"""POST /api/v1/execute: the three body shapes, the answer, and failures."""

from typing import Any

import httpx
import pytest

from appliance.config.settings import SchedulerSettings, Settings
from appliance.domain.tasks import TaskRequest
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelUnavailable,
    ProviderFailed,
    UnknownModel,
)
from tests.api.application import Api, settings_with
from tests.support.polling import until


@pytest.fixture
def settings() -> Settings:
    return settings_with()


SHAPES: dict[str, dict[str, Any]] = {
    "task": {
        "task": "Implement a REST API endpoint",
        "persona": "developer",
        "stream": False,
        "files": [{"path": "app.py", "content": "# code"}],
        "context": {"project_type": "flask"},
    },
    "persona_config": {
        "task_id": "unique-task-id",
        "task_type": "code_generation",
        "prompt": "Create a Python function",
        "context": {"user_id": "api-user", "session_id": "s", "environment": "api"},
        "persona_config": {"persona": "developer"},
    },
    "context.persona": {
        "task_type": "implement",
        "prompt": "Create a React component",
        "files": [],
        "context": {"persona": "developer", "framework": "react"},
    },
    "query and unknown fields": {
        "query": "Write it",
        "whatever": {"a": [1]},
        "superclause_config": {"persona": "developer", "context_window": 5},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_execute_when_any_shape_then_the_union_answer(
    shape: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/api/v1/execute", json=SHAPES[shape])
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert body["task_id"] == SHAPES[shape].get("task_id", body["task_id"])
    assert body["status"] == "completed"
    assert body["error"] is None
    assert body["execution_id"].startswith("exec_")
    result = body["result"]
    assert result["code"] == result["result"] == "def add(a, b):\n    return a + b\n"
    assert result["explanation"] == "Here it is:"
    assert result["files_modified"] == ["src/add.py"]
    assert result["tests"] == "def test_add(): ..."
    assert result["confidence_score"] == 1.0
    assert result["artifacts"][0]["filename"] == "src/add.py"
    assert body["metadata"]["provider_used"] == "llama_cpp"
    assert body["metadata"]["model"] == "starter"
    assert body["metadata"]["quantum_branches"] == 2
    assert body["metadata"]["tokens_used"] == body["usage"]["tokens_used"] == 177
    assert body["usage"]["cost_estimate"] == 0.25
    assert body["usage"]["provider_breakdown"] == {"llama_cpp": 117, "openai": 60}
    assert body["verification"]["level"] == "caller_tests"
    assert [branch["seed"] for branch in body["verification"]["branches"]] == [11, 12, 13]


async def test_execute_when_sent_then_interactive_and_of_the_caller(
    api: Api, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json={"prompt": "/review look at this"})
    task = api.script.seen[0].task
    assert task.user_id == api.system.alice.user.id
    request = task.request_as(TaskRequest)
    assert (request.priority, request.persona) == ("interactive", "reviewer")
    assert request.prompt == "look at this"


async def test_execute_when_the_same_id_and_body_then_the_same_task(
    api: Api, client: httpx.AsyncClient
) -> None:
    body = {"prompt": "Do it", "task_id": "mine"}
    first = (await client.post("/api/v1/execute", json=body)).json()
    assert (await client.post("/api/v1/execute", json=body)).json() == first
    assert len(api.script.seen) == 1
    other = await client.post("/api/v1/execute", json={**body, "prompt": "Do that"})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "CONFLICT"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ContextLengthExceeded("too long", details={"prompt_tokens": 9}), 400),
        (UnknownModel("no such model"), 400),
        (ModelUnavailable("no model is configured"), 503),
        (DeadlineExceeded("the task took too long"), 504),
    ],
)
async def test_execute_when_the_task_can_not_be_served_then_an_error(
    failure: ApplianceError, status: int, api: Api, client: httpx.AsyncClient
) -> None:
    api.script.outcome = failure
    answer = await client.post("/api/v1/execute", json={"prompt": "Do it"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, failure.code)
    assert error["message"] == failure.message
    assert error["details"]["task_id"].startswith("task_")
    assert failure.details.items() <= error["details"].items()


@pytest.mark.parametrize(
    ("failure", "code"),
    [(ProviderFailed("the engine died"), "PROVIDER_ERROR"), (KeyError("x"), "INTERNAL_ERROR")],
)
async def test_execute_when_the_work_fails_then_a_failed_task(
    failure: Exception, code: str, api: Api, client: httpx.AsyncClient
) -> None:
    api.script.outcome = failure
    answer = await client.post("/api/v1/execute", json={"prompt": "Do it"})
    body = answer.json()
    assert (answer.status_code, body["status"], body["result"]) == (200, "failed", None)
    assert body["error"]["code"] == code
    assert body["error"]["message"]


async def test_execute_when_the_persona_is_unknown_then_the_allowed_ones(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/api/v1/execute", json={"prompt": "x", "persona": "king"})
    details = answer.json()["error"]["details"]
    assert details["field"] == "persona"
    assert details["reason"].startswith("must be one of: developer, architect, reviewer")
    assert "security_analyst" in details["allowed"]


async def test_execute_when_a_viewer_asks_then_forbidden(api: Api) -> None:
    async with api.client("viewer") as viewer:
        answer = await viewer.post("/api/v1/execute", json={"prompt": "x"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize(
    "settings", [settings_with(scheduler=SchedulerSettings(workers=1, queue_limit=1))]
)
async def test_execute_when_the_queue_is_full_then_503_with_its_length(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    await api.system.submit(api.system.alice, "running")
    await until(lambda: bool(api.script.seen))
    await api.system.submit(api.system.alice, "waiting")
    answer = await client.post("/api/v1/execute", json={"prompt": "one too many"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "QUEUE_FULL")
    assert error["details"] == {"queue_length": 1, "queue_limit": 1}
    assert int(answer.headers["retry-after"]) >= 1


async def test_execute_when_the_wait_is_over_then_504_with_the_task(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    answer = await client.post("/api/v1/execute", json={"prompt": "x", "timeout": 0.05})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (504, "DEADLINE_EXCEEDED")
    assert error["details"]["task_id"]


@pytest.mark.parametrize("path", ["/api/v1/execute", "/api/v1/execute/stream"])
async def test_execute_when_fields_are_unknown_then_the_header_names_them(
    path: str, client: httpx.AsyncClient
) -> None:
    body: dict[str, Any] = {
        "prompt": "Do it",
        "speed": 3,
        "a\r\nb": 1,
        "context": {"anything": 1},
        "quantum_config": {"branches": 1, "entangle": True},
        "files": [{"path": "a", "content": "", "mode": 7}, {"path": "b", "content": ""}],
    }
    answer = await client.post(path, json=body)
    ignored = "speed, ?, quantum_config.entangle, files[0].mode"
    assert (answer.status_code, answer.headers["x-ignored-fields"]) == (200, ignored)
    assert "x-ignored-fields" not in (await client.post(path, json={"prompt": "Do it"})).headers
