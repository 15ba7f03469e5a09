"""The Anthropic-compatible dialect: /v1/messages."""

from appliance.api.anthropic.errors import DIALECT
from appliance.api.anthropic.routes import router

__all__ = ["DIALECT", "router"]
