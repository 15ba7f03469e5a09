"""The Monkey Coder dialect: /api/v1."""

from appliance.api.monkey.errors import DIALECT
from appliance.api.monkey.routes import router

__all__ = ["DIALECT", "router"]
