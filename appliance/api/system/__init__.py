"""What belongs to the box rather than to a dialect: health, metrics, docs."""

from appliance.api.system.docs import config as openapi
from appliance.api.system.routes import DIALECT, router

__all__ = ["DIALECT", "openapi", "router"]
