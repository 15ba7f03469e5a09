"""The services, as the API receives them."""

from dataclasses import dataclass

from appliance.services.accounts.service import Accounts
from appliance.services.catalog import CatalogService
from appliance.services.completions.service import CompletionService
from appliance.services.health import HealthService
from appliance.services.rate_window import RateWindows
from appliance.services.sandbox.service import SandboxService
from appliance.services.sandbox.sessions import SessionService
from appliance.services.tasks.service import TaskService


@dataclass(frozen=True)
class Services:
    """All services; built once by the composition root."""

    accounts: Accounts
    tasks: TaskService
    catalog: CatalogService
    health: HealthService
    sandbox: SandboxService
    sandbox_sessions: SessionService
    completions: CompletionService
    rate_windows: RateWindows
