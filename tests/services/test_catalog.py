"""What the box says that it offers."""

import time

from appliance.config.settings import RouteSettings, SandboxSettings, Settings
from appliance.domain.models import ModelState
from appliance.sandbox.runner import SandboxRunner
from appliance.services.catalog import ROUTES, CatalogService
from tests.support.gateway_parts import Scripted, gateway_over


async def test_models_when_routes_are_configured_then_their_names_are_offered_too() -> None:
    routes = {
        "team": RouteSettings(models=("near/model",)),
        "lost": RouteSettings(models=("nowhere/model",)),
    }
    gateway = gateway_over(Scripted("near"), routes=routes)
    runner = SandboxRunner({}, SandboxSettings())
    catalog = CatalogService(gateway, runner, Settings())

    offered = {model.name: model for model in await catalog.models()}
    assert list(offered)[:2] == ["team", "lost"]
    assert offered["team"].state is ModelState.READY
    assert "near/model" in offered["team"].description
    assert offered["lost"].state is ModelState.FAILED
    assert [model.name for model in await catalog.models(ROUTES)] == ["team", "lost"]
    # Its provider does not say since when it is: the box has known it from now on.
    assert {m.name: m.created_at for m in await catalog.models()} == {
        name: model.created_at for name, model in offered.items()
    }
    assert time.time() - 60 < (offered["team"].created_at or 0) <= time.time()
    assert ROUTES not in {model.provider for model in await catalog.models("near")}
    await gateway.close()
