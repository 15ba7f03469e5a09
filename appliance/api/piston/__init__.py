"""The dialect of Piston's clients: /api/v2."""

from appliance.api.piston.errors import DIALECT
from appliance.api.piston.routes import router

__all__ = ["DIALECT", "router"]
