"""The Gemini API: generateContent, countTokens, embeddings, the model list."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    TokenUsage,
)
from appliance.errors import UnknownModel
from appliance.spi.provider import Provider
from plugins._shared.http_provider import embeddings
from plugins._shared.http_provider.client import HttpClient
from plugins._shared.http_provider.model_list_cache import MAX_MODELS, ListedModel, ModelListCache
from plugins._shared.http_provider.options import (
    build_base_url,
    missing_settings_hint,
    read_options,
)
from plugins._shared.http_provider.provider import HttpProvider, ProviderRequest
from plugins.providers.google import requests, wire
from plugins.providers.google.stream_parser import GeminiStreamParser
from plugins.providers.google.thought_signatures import ThoughtSignatureCache

_DEFAULT_URL = "https://generativelanguage.googleapis.com"
_VERSION_PATH = "/v1beta"
_LIST_TIMEOUT_S = 10.0
_PAGE_SIZE = 1000
_MAX_BATCH = 100
_NAME = re.compile(r"(?:(?:models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_GENERATE, _EMBED = "generateContent", "embedContent"


class GeminiApi:
    """Implements plugins._shared.http_provider.provider.ProviderApi."""

    max_tool_name = 64

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._signatures = ThoughtSignatureCache()

    async def list_models(self, client: HttpClient) -> Sequence[ListedModel]:
        models, params = list[ListedModel](), {"pageSize": str(_PAGE_SIZE)}
        for _ in range(MAX_MODELS // _PAGE_SIZE):
            page = await client.get("/models", wire.ModelList, params, timeout_s=_LIST_TIMEOUT_S)
            models += [listed for model in page.models or () if (listed := _listed_model(model))]
            if not page.next_page_token:
                break
            params["pageToken"] = page.next_page_token
        return models

    async def build_request(
        self, request: CompletionRequest, model_list: ModelListCache
    ) -> ProviderRequest:
        del model_list
        name = self._client.name
        path = f"/{_resource(name, request.model)}:streamGenerateContent?alt=sse"
        body = requests.build_body(name, request, self._signatures)
        return ProviderRequest(
            path, body, GeminiStreamParser(name, self._signatures, self._client.parse_error)
        )

    async def count_tokens(self, client: HttpClient, request: CompletionRequest) -> int:
        resource = _resource(client.name, request.model)
        prompt = requests.build_prompt(client.name, request, self._signatures)
        body = {"generateContentRequest": prompt | {"model": resource}}
        return (await client.post(f"/{resource}:countTokens", body, wire.TokenCount)).total_tokens

    async def embed(self, client: HttpClient, request: EmbeddingRequest) -> Embeddings:
        vectors, usage = list[tuple[float, ...]](), TokenUsage()
        resource = _resource(client.name, request.model)
        for texts in embeddings.iter_batches(request.texts, _MAX_BATCH):
            body = {"requests": [_embedding(resource, text, request.dimensions) for text in texts]}
            response = await client.post(
                f"/{resource}:batchEmbedContents", body, wire.EmbeddingList
            )
            embeddings.check_count(client.name, len(response.embeddings), len(texts))
            vectors += [
                embeddings.normalize(client.name, item.values) for item in response.embeddings
            ]
            usage += await _usage(client, resource, texts, response)
        return Embeddings(tuple(vectors), usage)


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """Decode the settings and build the provider. Raises ConfigError for invalid settings."""
    options = read_options(name, settings)
    headers = {"x-goog-api-key": options.api_key} if options.api_key else {}
    client = HttpClient(
        name, build_base_url(options.base_url, _DEFAULT_URL, _VERSION_PATH), options, headers
    )
    return HttpProvider(
        name, options, client, GeminiApi(client), missing_settings_hint(name, "google")
    )


async def _usage(
    client: HttpClient, resource: str, texts: Sequence[str], response: wire.EmbeddingList
) -> TokenUsage:
    """The tokens embedded; counted by another request if the response has no usage."""
    if response.usage_metadata is not None:
        return TokenUsage(response.usage_metadata.prompt_token_count)
    body = {"contents": [{"parts": [{"text": text}]} for text in texts]}
    count = await client.post(f"/{resource}:countTokens", body, wire.TokenCount)
    return TokenUsage(count.total_tokens)


def _embedding(resource: str, text: str, dimensions: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": resource, "content": {"parts": [{"text": text}]}}
    return body | ({} if dimensions is None else {"outputDimensionality": dimensions})


def _resource(name: str, model: str) -> str:
    """The model's resource name for a URL path. Raises UnknownModel for an invalid name."""
    if not _NAME.fullmatch(model):
        raise UnknownModel(f"provider {name} has no model {model[:100]!r}: invalid name")
    return model if "/" in model else f"models/{model}"


def _listed_model(model: wire.Model) -> ListedModel | None:
    """None for models without completions and embeddings."""
    methods = model.supported_generation_methods
    if _GENERATE not in methods and _EMBED not in methods:
        return None
    return ListedModel(
        model.name.removeprefix("models/"),
        description=model.display_name,
        context_tokens=model.input_token_limit,
        output_tokens=model.output_token_limit,
        embeds=_GENERATE not in methods,
    )
