"""Health and readiness while the sandbox is being prepared at the first start (F33)."""

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import BackendStatus
from appliance.sandbox.runner import SandboxRunner
from tests.api.application import Api


async def test_health_when_the_sandbox_is_being_prepared_then_starting_and_not_ready(
    api: Api,
) -> None:
    known = api.sandbox.status
    api.sandbox.status, api.sandbox.is_known = SandboxRunner({}, SandboxSettings()).status, False
    async with api.client(None) as client:
        health = await client.get("/health")
        readiness = await client.get("/health/readiness")
        api.sandbox.status, api.sandbox.is_known = known, True
        later = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "starting")
    assert health.json()["problems"] == {"sandbox": "the sandbox is being prepared"}
    assert readiness.status_code == 503
    assert readiness.json()["waiting_for"]["sandbox"] == "the sandbox is being prepared"
    assert later.json()["status"] == "healthy"


async def test_health_when_no_sandbox_was_found_then_degraded_no_longer_starting(api: Api) -> None:
    api.sandbox.status = BackendStatus("none", available=False, problem="no user namespaces")
    async with api.client(None) as client:
        assert (await client.get("/health")).json()["status"] == "degraded"
