"""POST /v1/embeddings."""

import base64
import struct
from typing import Any

from litestar import Request
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.dependencies import services_of
from appliance.api.http.fast_route import JsonAnswer, ModelRoute
from appliance.api.http.requests import principal_of
from appliance.api.openai.answer_schemas import EmbeddingAnswer, EmbeddingUsage, VectorAnswer
from appliance.api.openai.body_decoder import reads
from appliance.api.openai.convert import embedding_request
from appliance.api.openai.schemas import EmbeddingBody
from appliance.api.openapi import answers_with
from appliance.api.streaming.completion_stream import attended
from appliance.domain.messages import Embeddings
from appliance.services.completions.protocol import Completions

AnyRequest = Request[Any, Any, Any]


@ModelRoute(
    "/embeddings",
    http_method="POST",
    status_code=200,
    opt=reads(EmbeddingBody),
    responses=answers_with(EmbeddingAnswer, "One vector per text, in their order."),
)
async def embeddings(request: AnyRequest, data: JSONBody[EmbeddingBody]) -> ASGIApp:
    """Vectors for texts."""
    return await attended(request, _answer(request, data, services_of(request).completions))


async def _answer(request: AnyRequest, body: EmbeddingBody, service: Completions) -> ASGIApp:
    found = await service.embed(principal_of(request), embedding_request(body))
    return JsonAnswer(embedding_answer(body.model, found, packed=body.encoding_format == "base64"))


def embedding_answer(model: str, found: Embeddings, *, packed: bool) -> EmbeddingAnswer:
    used = found.usage.prompt_tokens
    return EmbeddingAnswer(
        model=model,
        data=[
            VectorAnswer(index, _packed(vector) if packed else vector)
            for index, vector in enumerate(found.vectors)
        ],
        usage=EmbeddingUsage(used, used),
    )


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
