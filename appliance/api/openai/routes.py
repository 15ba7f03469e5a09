"""The routes of this dialect."""

from litestar import Router

from appliance.api.openai.chat_routes import chat_completions
from appliance.api.openai.completion_routes import completions
from appliance.api.openai.embedding_routes import embeddings
from appliance.api.openai.model_routes import get_model, list_models
from appliance.api.openai.responses.routes import router as responses_router


def router() -> Router:
    """/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models and /v1/responses."""
    return Router(
        "/v1",
        route_handlers=[
            chat_completions, completions, embeddings, list_models, get_model, responses_router(),
        ],
        tags=["OpenAI-compatible"],
    )  # fmt: skip
