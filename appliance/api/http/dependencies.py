"""What handlers are given by name."""

from typing import Any

from litestar import Request
from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation

from appliance.config.settings import Settings
from appliance.services.container import Services

ServicesDependency = NamedDependency[SkipValidation[Services]]
SettingsDependency = NamedDependency[SkipValidation[Settings]]


def services_of(request: Request[Any, Any, Any]) -> Services:
    """The same services, for a handler that does without the framework's injection."""
    return request.app.state["services"]


def provided(services: Services, settings: Settings) -> dict[str, Provide]:
    """The application's dependencies."""
    return {
        "services": Provide(lambda: services, sync_to_thread=False),
        "settings": Provide(lambda: settings, sync_to_thread=False),
    }
