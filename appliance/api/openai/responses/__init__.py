"""OpenAI's Responses API, its text and tools: /v1/responses."""

from appliance.api.openai.responses.routes import DIALECT, router

__all__ = ["DIALECT", "router"]
