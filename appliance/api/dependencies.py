"""What handlers are given by name."""

from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation

from appliance.services.container import Services
from appliance.settings import Settings

ServicesDependency = NamedDependency[SkipValidation[Services]]
SettingsDependency = NamedDependency[SkipValidation[Settings]]


def provided(services: Services, settings: Settings) -> dict[str, Provide]:
    """The application's dependencies."""
    return {
        "services": Provide(lambda: services, sync_to_thread=False),
        "settings": Provide(lambda: settings, sync_to_thread=False),
    }
