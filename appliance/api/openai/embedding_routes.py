"""POST /v1/embeddings."""

import base64
import struct
from typing import Any

from litestar import Request
from litestar.params import JSONBody
from litestar.types import ASGIApp

from appliance.api.http.body_decoder import strict_body
from appliance.api.http.dependencies import get_services
from appliance.api.http.fast_route import FastRoute, JsonResponse
from appliance.api.http.requests import get_principal
from appliance.api.openai.answer_schemas import EmbeddingAnswer, EmbeddingUsage, VectorAnswer
from appliance.api.openai.convert import embedding_request
from appliance.api.openai.schemas import EmbeddingBody
from appliance.api.openapi import response_schema
from appliance.api.streaming.completion_stream import respond_unless_disconnected
from appliance.domain.messages import Embeddings
from appliance.services.completions.service import CompletionService

AnyRequest = Request[Any, Any, Any]


@FastRoute(
    "/embeddings",
    http_method="POST",
    status_code=200,
    opt=strict_body(),
    responses=response_schema(EmbeddingAnswer, "One vector per text, in their order."),
)
async def embeddings(request: AnyRequest, data: JSONBody[EmbeddingBody]) -> ASGIApp:
    """Compute a vector for each text."""
    return await respond_unless_disconnected(
        request, _answer(request, data, get_services(request).completions)
    )


async def _answer(request: AnyRequest, body: EmbeddingBody, service: CompletionService) -> ASGIApp:
    vectors = await service.embed(get_principal(request), embedding_request(body))
    return JsonResponse(
        embedding_answer(body.model, vectors, packed=body.encoding_format == "base64")
    )


def embedding_answer(model: str, result: Embeddings, *, packed: bool) -> EmbeddingAnswer:
    used = result.usage.prompt_tokens
    return EmbeddingAnswer(
        model=model,
        data=[
            VectorAnswer(index, _pack_vector(vector) if packed else vector)
            for index, vector in enumerate(result.vectors)
        ],
        usage=EmbeddingUsage(used, used),
    )


def _pack_vector(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
