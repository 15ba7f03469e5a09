"""Dependencies that Litestar injects into handlers by name."""

from typing import Any

from litestar import Request
from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation

from appliance.config.settings import Settings
from appliance.services.container import Services

ServicesDependency = NamedDependency[SkipValidation[Services]]
SettingsDependency = NamedDependency[SkipValidation[Settings]]


def get_services(request: Request[Any, Any, Any]) -> Services:
    """The services, for a FastRoute handler, which has no dependency injection."""
    return request.app.state["services"]


def application_dependencies(services: Services, settings: Settings) -> dict[str, Provide]:
    """The dependencies of the whole application."""
    return {
        "services": Provide(lambda: services, sync_to_thread=False),
        "settings": Provide(lambda: settings, sync_to_thread=False),
    }
