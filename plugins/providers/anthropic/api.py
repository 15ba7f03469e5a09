"""Anthropic's API: messages, token counts, the model list; it has no embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.domain.messages import CompletionRequest, EmbeddingRequest, Embeddings
from appliance.errors import InvalidInput
from appliance.spi.provider import Provider
from plugins._shared.http_provider.client import HttpClient
from plugins._shared.http_provider.model_list_cache import (
    MAX_MODELS,
    ListedModel,
    ModelListCache,
    parse_timestamp,
)
from plugins._shared.http_provider.options import (
    build_base_url,
    missing_settings_hint,
    read_options,
)
from plugins._shared.http_provider.provider import HttpProvider, ProviderRequest
from plugins.providers.anthropic import requests, wire
from plugins.providers.anthropic.stream_parser import AnthropicStreamParser

_DEFAULT_URL = "https://api.anthropic.com"
_VERSION_PATH = "/v1"
_API_VERSION = "2023-06-01"
_LIST_TIMEOUT_S = 10.0
_PAGE_SIZE = 1000
# The API requires max_tokens in every request; this value suits every model since Claude 3.5.
_DEFAULT_MAX_TOKENS = 8192


class AnthropicApi:
    """Implements plugins._shared.http_provider.provider.ProviderApi."""

    max_tool_name = 128

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def list_models(self, client: HttpClient) -> Sequence[ListedModel]:
        models, params = list[ListedModel](), {"limit": str(_PAGE_SIZE)}
        for _ in range(MAX_MODELS // _PAGE_SIZE):
            page = await client.get("/models", wire.ModelList, params, timeout_s=_LIST_TIMEOUT_S)
            models += [
                _listed_model(model) for model in page.data or () if model.lifecycle != "retired"
            ]
            if not (page.has_more and page.last_id and page.data):
                break
            params["after_id"] = page.last_id
        return models

    async def build_request(
        self, request: CompletionRequest, model_list: ModelListCache
    ) -> ProviderRequest:
        name = self._client.name
        max_tokens = request.max_tokens
        if max_tokens is None:
            listed = await model_list.find(request.model)
            max_tokens = (listed.output_tokens if listed else None) or _DEFAULT_MAX_TOKENS
        body = requests.build_message_body(name, request, max_tokens)
        return ProviderRequest(
            "/messages", body, AnthropicStreamParser(name, self._client.parse_error)
        )

    async def count_tokens(self, client: HttpClient, request: CompletionRequest) -> int:
        body = requests.build_prompt(client.name, request)
        return (await client.post("/messages/count_tokens", body, wire.TokenCount)).input_tokens

    async def embed(self, client: HttpClient, request: EmbeddingRequest) -> Embeddings:
        raise InvalidInput.at(
            "model", f"{request.model!r}: provider {client.name} has no embeddings"
        )


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """Decode the settings and build the provider. Raises ConfigError for invalid settings."""
    options = read_options(name, settings)
    headers = {"anthropic-version": _API_VERSION}
    if options.api_key:
        headers["x-api-key"] = options.api_key
    base_url = build_base_url(options.base_url, _DEFAULT_URL, _VERSION_PATH, always=True)
    client = HttpClient(name, base_url, options, headers)
    return HttpProvider(
        name, options, client, AnthropicApi(client), missing_settings_hint(name, "anthropic")
    )


def _listed_model(model: wire.Model) -> ListedModel:
    return ListedModel(
        model.id,
        description=model.display_name,
        context_tokens=model.max_input_tokens,
        output_tokens=model.max_tokens,
        created_at=parse_timestamp(model.created_at),
    )
