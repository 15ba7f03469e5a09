"""The OpenAI-compatible dialect: chat completions, completions, embeddings and models below /v1."""

from appliance.api.openai.errors import DIALECTS
from appliance.api.openai.routes import router

__all__ = ["DIALECTS", "router"]
