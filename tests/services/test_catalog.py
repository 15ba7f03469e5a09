"""The catalog: models and routes."""

import time

from appliance.config.settings import RouteSettings, SandboxSettings, Settings
from appliance.domain.models import ModelState
from appliance.sandbox.runner import SandboxRunner
from appliance.services.catalog import ROUTES, CatalogService
from tests.support.gateway_parts import Scripted, gateway_over


async def test_models_when_routes_are_configured_then_they_are_listed_too() -> None:
    routes = {
        "team": RouteSettings(models=("near/model",)),
        "lost": RouteSettings(models=("nowhere/model",)),
    }
    gateway = gateway_over(Scripted("near"), routes=routes)
    runner = SandboxRunner({}, SandboxSettings())
    catalog = CatalogService(gateway, runner, Settings())

    listed = {model.name: model for model in await catalog.models()}
    assert list(listed)[:2] == ["team", "lost"]
    assert listed["team"].state is ModelState.READY
    assert "near/model" in listed["team"].description
    assert listed["lost"].state is ModelState.FAILED
    assert [model.name for model in await catalog.models(ROUTES)] == ["team", "lost"]
    # The provider has no creation time: it is the time first seen.
    assert {m.name: m.created_at for m in await catalog.models()} == {
        name: model.created_at for name, model in listed.items()
    }
    assert time.time() - 60 < (listed["team"].created_at or 0) <= time.time()
    assert ROUTES not in {model.provider for model in await catalog.models("near")}
    await gateway.close()
