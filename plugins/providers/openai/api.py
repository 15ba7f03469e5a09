"""OpenAI's API: chat completions, raw completions, embeddings, the model list."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    RawPrompt,
    TokenUsage,
)
from appliance.spi.provider import Provider
from plugins._shared.http_provider import embeddings, unsupported
from plugins._shared.http_provider.client import HttpClient
from plugins._shared.http_provider.model_list_cache import (
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
from plugins.providers.openai import requests, wire
from plugins.providers.openai.stream_parser import OpenAIStreamParser
from plugins.providers.openai.token_count import TokenCounter

_DEFAULT_URL = "https://api.openai.com"
_VERSION_PATH = "/v1"
_LLAMA_SERVER = "llama.cpp"
_LIST_TIMEOUT_S = 10.0
_MAX_BATCH = 256


class OpenAIApi:
    """Implements plugins._shared.http_provider.provider.ProviderApi."""

    max_tool_name = 64

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._official = urlsplit(client.base_url).hostname == urlsplit(_DEFAULT_URL).hostname
        self._counter = TokenCounter(official=self._official)

    async def list_models(self, client: HttpClient) -> Sequence[ListedModel]:
        response = await client.get("/models", wire.ModelList, timeout_s=_LIST_TIMEOUT_S)
        return [_listed_model(model) for model in response.data or ()]

    async def build_request(
        self, request: CompletionRequest, model_list: ModelListCache
    ) -> ProviderRequest:
        name = self._client.name
        parser = OpenAIStreamParser(name, self._client.parse_error)
        if request.raw is not None:
            await self._check_suffix(request.raw, model_list)
            body = requests.build_completion_body(name, request, official=self._official)
            return ProviderRequest("/completions", body, parser)
        body = requests.build_chat_body(name, request, official=self._official)
        return ProviderRequest("/chat/completions", body, parser)

    async def _check_suffix(self, raw: RawPrompt, model_list: ModelListCache) -> None:
        """Refuse a suffix on llama-server, which ignores it."""
        if raw.suffix is None:
            return
        if not self._client.server_header:
            await model_list.find("")
        if self._client.server_header.startswith(_LLAMA_SERVER):
            raise unsupported.unsupported_field(self._client.name, "suffix")

    async def count_tokens(self, client: HttpClient, request: CompletionRequest) -> int:
        return await self._counter.count(client, request)

    async def embed(self, client: HttpClient, request: EmbeddingRequest) -> Embeddings:
        vectors, usage = list[tuple[float, ...]](), TokenUsage()
        for texts in embeddings.iter_batches(request.texts, _MAX_BATCH):
            body: dict[str, Any] = {"model": request.model, "input": list(texts)}
            body["encoding_format"] = "float"
            if request.dimensions is not None:
                body["dimensions"] = request.dimensions
            response = await client.post("/embeddings", body, wire.EmbeddingList)
            embeddings.check_count(client.name, len(response.data), len(texts))
            in_order = sorted(response.data, key=lambda item: item.index)
            vectors += [embeddings.normalize(client.name, item.embedding) for item in in_order]
            usage += TokenUsage(response.usage.prompt_tokens if response.usage else 0)
        return Embeddings(tuple(vectors), usage)


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """Decode the settings and build the provider. Raises ConfigError for invalid settings."""
    options = read_options(name, settings)
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    client = HttpClient(
        name, build_base_url(options.base_url, _DEFAULT_URL, _VERSION_PATH), options, headers
    )
    return HttpProvider(
        name, options, client, OpenAIApi(client), missing_settings_hint(name, "openai")
    )


def _listed_model(model: wire.Model) -> ListedModel:
    """The context size is reported by vLLM (max_model_len) and llama-server (meta) only."""
    context = model.max_model_len
    for key in ("n_ctx", "n_ctx_train"):
        if context is None and isinstance(value := (model.meta or {}).get(key), int):
            context = value
    embeds, created = "embed" in model.id.lower(), parse_timestamp(model.created)
    return ListedModel(model.id, context_tokens=context, embeds=embeds, created_at=created)
