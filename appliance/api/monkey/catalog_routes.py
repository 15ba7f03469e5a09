"""/api/v1/{providers,models,capabilities}: what this server offers."""

from litestar import get
from litestar.params import FromQuery

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.monkey import catalog_answers
from appliance.api.monkey.catalog_schemas import (
    CapabilitiesAnswer,
    ModelListAnswer,
    ProviderListAnswer,
)


@get("/providers")
async def list_providers(services: ServicesDependency) -> ProviderListAnswer:
    """List the providers of completions, and whether each is available."""
    models = await services.catalog.models()
    return catalog_answers.provider_list(services.catalog.providers(), models)


@get("/models")
async def list_models(
    services: ServicesDependency, provider: FromQuery[str | None] = None
) -> ModelListAnswer:
    """List the available models by provider, with the state of each."""
    return catalog_answers.model_list(await services.catalog.models(provider), provider)


@get("/capabilities")
async def get_capabilities(services: ServicesDependency) -> CapabilitiesAnswer:
    """Get the personas, task types, sandbox, models and limits of this server."""
    return catalog_answers.capabilities_answer(await services.catalog.capabilities())
