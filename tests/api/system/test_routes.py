"""Health, readiness, metrics and capabilities."""

from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelState
from appliance.inference.gateway import Gateway
from appliance.services.health import HealthService
from appliance.store.sqlite.write_probe import WriteProbe
from tests.api.application import Api, starter


async def test_health_when_all_works_then_what_three_products_ask_for(api: Api) -> None:
    async with api.client(None) as client:
        answer = await client.get("/health")
    body = answer.json()
    assert answer.status_code == 200
    assert body["status"] == "healthy"
    assert body["components"] == {
        "orchestrator": "active",
        "quantum_executor": "active",
        "persona_router": "active",
        "provider_registry": "active",
    }
    assert body["services"] == {"database": "healthy", "queue": "healthy", "redis": "healthy"}
    assert body["service"] == "Codeep AI API"
    assert body["problems"] == {}
    assert body["version"]
    assert body["timestamp"].endswith("Z")
    assert body["environment"] == "development"


async def test_health_when_a_key_is_sent_then_exactly_four_fields(
    client: httpx.AsyncClient,
) -> None:
    body = (await client.get("/health")).json()
    assert set(body) == {"status", "version", "timestamp", "components"}


async def test_health_when_the_sandbox_is_missing_then_degraded_with_the_reason(
    api: Api,
) -> None:
    api.sandbox.status = BackendStatus("none", available=False, problem="no user namespaces")
    async with api.client(None) as client:
        answer = await client.get("/health")
        capabilities = await client.get(
            "/api/v1/capabilities", headers={"X-API-Key": api.keys["alice"]}
        )
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["components"]["quantum_executor"] == "unavailable"
    assert answer.json()["problems"] == {"sandbox": "no user namespaces"}
    assert capabilities.json()["sandbox"]["available"] is False
    assert capabilities.json()["sandbox"]["problem"] == "no user namespaces"


async def test_health_when_the_store_fails_then_503_without_its_path(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise OSError("/var/lib/server.db is gone")

    monkeypatch.setattr(api.system.db, "read", broken)
    async with api.client(None) as client:
        answer = await client.get("/health")
        readiness = await client.get("/health/readiness")
    assert answer.status_code == readiness.status_code == 503
    assert answer.json()["status"] == "unhealthy"
    assert answer.json()["services"]["database"] == "unhealthy"
    assert "server.db" not in answer.text + readiness.text


async def test_comprehensive_when_asked_then_the_parts_and_how_much_runs_and_waits(
    api: Api,
) -> None:
    async with api.client(None) as client:
        body = (await client.get("/health/comprehensive")).json()
        known = (await client.get("/health")).json()
    assert body.keys() == known.keys() | {"tasks", "completions"}
    assert body["tasks"] == {
        "running": 0,
        "workers": 2,
        "waiting": 0,
        "limit": 200,
        "limit_per_user": 100,
        "expected_wait_seconds": 0.0,
    }
    assert body["completions"] == {
        "running": 0,
        "waiting": 0,
        "limit": 256,
        "limit_per_user": 64,
    }


async def test_comprehensive_when_the_store_fails_then_503_and_no_tasks(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise OSError("/var/lib/server.db is gone")

    monkeypatch.setattr(api.system.db, "read", broken)
    async with api.client(None) as client:
        answer = await client.get("/health/comprehensive")
    assert (answer.status_code, answer.json()["tasks"]) == (503, None)


async def test_alive_when_asked_then_nothing_else_is_looked_at(api: Api) -> None:
    async with api.client(None) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.head("/healthz")).status_code == 200
        assert (await client.head("/health")).content == b""


@pytest.mark.parametrize("state", list(ModelState))
async def test_readiness_when_a_default_model_is_set_then_only_once_it_is_loaded(
    state: ModelState, api: Api
) -> None:
    api.provider.info = msgspec.structs.replace(api.provider.info, state=state)
    async with api.client(None) as client:
        answer = await client.get("/health/readiness")
    ready = state is ModelState.READY
    assert (answer.status_code, answer.json()["ready"]) == ((200, True) if ready else (503, False))
    assert ("model" in answer.json()["waiting_for"]) is not ready


@pytest.mark.parametrize("state", list(ModelState))
async def test_readiness_when_the_model_was_ready_and_can_be_started_again_then_ready(
    state: ModelState, api: Api
) -> None:
    api.provider.info = msgspec.structs.replace(api.provider.info, state=state, restartable=True)
    async with api.client(None) as client:
        answer = await client.get("/health/readiness")
    assert (answer.status_code, answer.json()["waiting_for"]) == (200, {})


@pytest.mark.parametrize("state", list(ModelState))
async def test_readiness_when_models_are_loaded_on_demand_then_not_waited_for(
    state: ModelState, api: Api, tmp_path: Path
) -> None:
    api.provider.info = msgspec.structs.replace(api.provider.info, state=state)
    gateway = Gateway({"llama_cpp": api.provider}, starter)
    service = HealthService(
        WriteProbe(tmp_path / "unused"),
        gateway,
        cast("Any", api.sandbox),
        api.system.scheduler,
        preload=False,
    )
    assert (await service.readiness()).ready is (state is not ModelState.FAILED)


async def test_readiness_when_the_server_is_shutting_down_then_not_ready(api: Api) -> None:
    api.services.health.stop()
    async with api.client(None) as client:
        answer = await client.get("/health/readiness")
    assert answer.status_code == 503
    assert answer.json()["waiting_for"] == {"server": "the server is shutting down"}


async def test_readiness_when_no_model_is_configured_then_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none() -> list[Any]:
        return []

    monkeypatch.setattr(api.provider, "models", none)
    async with api.client(None) as client:
        assert (await client.get("/health/readiness")).json()["ready"] is True
        assert (await client.get("/health")).json()["status"] == "healthy"


async def test_metrics_when_requests_came_then_counted_by_route(client: httpx.AsyncClient) -> None:
    await client.get("/api/v1/tasks/some-id")
    await client.get("/secret-path-of-a-stranger")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'route="/api/v1/tasks/{task_id}",status="404"' in answer.text
    assert 'route="unmatched"' in answer.text
    assert "some-id" not in answer.text
    assert "stranger" not in answer.text
    assert "monkey_coder_queue_length 0.0" in answer.text


async def test_providers_when_listed_then_their_real_state(
    api: Api, client: httpx.AsyncClient
) -> None:
    body = (await client.get("/api/v1/providers")).json()
    assert body == {
        "providers": [
            {
                "name": "llama_cpp",
                "type": "local",
                "status": "active",
                "available": True,
                "problem": None,
                "models": ["starter"],
            },
            {
                "name": "cracked",
                "type": "local",
                "status": "unavailable",
                "available": False,
                "problem": "the plugin could not be loaded; "
                "run `monkey-coder doctor` for the reason",
                "models": [],
            },
        ],
        "count": 2,
        "status": "active",
    }
    api.provider.available = False
    down = (await client.get("/api/v1/providers")).json()
    assert down["status"] == down["providers"][0]["status"] == "unavailable"
    assert down["providers"][0]["problem"] == "the library does not load"


async def test_models_when_listed_then_by_provider_with_the_default(
    client: httpx.AsyncClient,
) -> None:
    body = (await client.get("/api/v1/models")).json()
    assert (body["count"], body["default"]) == (1, "starter")
    model = body["models"]["llama_cpp"][0]
    assert (model["id"], model["status"]) == ("llama_cpp/starter", "ready")
    assert model["context_length"] == 2048
    other = (await client.get("/api/v1/models?provider=openai")).json()
    assert (other["models"], other["count"], other["provider_filter"]) == ({}, 0, "openai")


async def test_capabilities_when_asked_then_what_is_really_there(
    client: httpx.AsyncClient,
) -> None:
    body = (await client.get("/api/v1/capabilities")).json()
    personas = {each["name"]: each["slash_commands"] for each in body["personas"]}
    assert "/security" in personas["security_analyst"]
    assert set(body["task_types"]) >= {"code_generation", "debugging"}
    assert "first_success" in body["collapse_strategies"]
    assert body["sandbox"]["languages"] == {"python": "3.11.7"}
    assert body["sandbox"]["isolation"] == "namespaces"
    assert body["sandbox"]["limits"]["wall_s"] == 10.0
    assert body["limits"]["max_branches"] == 8
    assert body["models"][0]["name"] == "starter"
