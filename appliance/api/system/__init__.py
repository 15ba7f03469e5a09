"""Health, metrics and docs: routes that belong to no dialect."""

from appliance.api.system.docs import config as openapi
from appliance.api.system.routes import DIALECT, router

__all__ = ["DIALECT", "openapi", "router"]
