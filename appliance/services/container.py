"""The use cases that every dialect calls."""

from dataclasses import dataclass

from appliance.services.accounts.service import AccountService
from appliance.services.catalog import CatalogService
from appliance.services.completions.protocol import Completions
from appliance.services.health import HealthService
from appliance.services.sandbox.service import SandboxService
from appliance.services.tasks.service import TaskService


@dataclass(frozen=True)
class Services:
    """Built once by the composition root and handed to the API."""

    accounts: AccountService
    tasks: TaskService
    catalog: CatalogService
    health: HealthService
    sandbox: SandboxService
    completions: Completions
