"""/api/v1/{providers,models,capabilities}: what this box offers."""

from litestar import get
from litestar.params import FromQuery

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.monkey import catalog
from appliance.api.monkey.catalog_schemas import (
    CapabilitiesAnswer,
    ModelListAnswer,
    ProviderListAnswer,
)


@get("/providers")
async def list_providers(services: ServicesDependency) -> ProviderListAnswer:
    """Where completions come from, and whether each source can serve now."""
    models = await services.catalog.models()
    return catalog.provider_list(services.catalog.providers(), models)


@get("/models")
async def list_models(
    services: ServicesDependency, provider: FromQuery[str | None] = None
) -> ModelListAnswer:
    """The models on offer, by provider, with the state of each."""
    return catalog.model_list(await services.catalog.models(provider), provider)


@get("/capabilities")
async def get_capabilities(services: ServicesDependency) -> CapabilitiesAnswer:
    """Personas, task types, sandbox, models and limits of this box, as they are now."""
    return catalog.capabilities_answer(await services.catalog.capabilities())
