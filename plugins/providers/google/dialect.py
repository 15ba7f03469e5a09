"""Google's Gemini API: generateContent, countTokens, embeddings, the list of models."""

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
from plugins._shared.http_provider.client import Client
from plugins._shared.http_provider.model_list_cache import MAX_MODELS, Catalogue, Offer
from plugins._shared.http_provider.options import address, missing, read_options
from plugins._shared.http_provider.provider import Call, UpstreamProvider
from plugins.providers.google import requests, wire
from plugins.providers.google.reader import Reader
from plugins.providers.google.signatures import Signatures

_OWN = "https://generativelanguage.googleapis.com"
_VERSION = "/v1beta"
_LIST_S = 10.0
_PAGE = 1000
_TEXTS_AT_ONCE = 100
_NAME = re.compile(r"(?:(?:models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WRITES, _EMBEDS = "generateContent", "embedContent"


class Google:
    """Implements plugins._shared.http_provider.provider.Dialect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._signatures = Signatures()

    async def list(self, client: Client) -> Sequence[Offer]:
        offers, params = list[Offer](), {"pageSize": str(_PAGE)}
        for _ in range(MAX_MODELS // _PAGE):
            page = await client.get("/models", wire.ModelList, params, timeout_s=_LIST_S)
            offers += [offer for model in page.models or () if (offer := _offer(model))]
            if not page.next_page_token:
                break
            params["pageToken"] = page.next_page_token
        return offers

    async def call(self, request: CompletionRequest, catalogue: Catalogue) -> Call:
        del catalogue
        name = self._client.name
        path = f"/{_resource(name, request.model)}:streamGenerateContent?alt=sse"
        body = requests.content(name, request, self._signatures)
        return Call(path, body, Reader(name, self._signatures, self._client.said))

    async def count(self, client: Client, request: CompletionRequest) -> int:
        resource = _resource(client.name, request.model)
        asked = requests.prompt(client.name, request, self._signatures) | {"model": resource}
        body = {"generateContentRequest": asked}
        return (await client.post(f"/{resource}:countTokens", body, wire.Count)).total_tokens

    async def embed(self, client: Client, request: EmbeddingRequest) -> Embeddings:
        made, usage = list[tuple[float, ...]](), TokenUsage()
        resource = _resource(client.name, request.model)
        for texts in embeddings.batches(request.texts, _TEXTS_AT_ONCE):
            body = {"requests": [_embedding(resource, text, request.dimensions) for text in texts]}
            found = await client.post(f"/{resource}:batchEmbedContents", body, wire.Vectors)
            embeddings.check_count(client.name, len(found.embeddings), len(texts))
            made += [
                embeddings.of_length_one(client.name, item.values) for item in found.embeddings
            ]
            usage += await _usage(client, resource, texts, found)
        return Embeddings(tuple(made), usage)


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """The provider of that name. Raises ConfigError for settings that can't be used."""
    options = read_options(name, settings)
    headers = {"x-goog-api-key": options.api_key} if options.api_key else {}
    client = Client(name, address(options.base_url, _OWN, _VERSION), options, headers)
    return UpstreamProvider(name, options, client, Google(client), missing(name, "google"))


async def _usage(
    client: Client, resource: str, texts: Sequence[str], found: wire.Vectors
) -> TokenUsage:
    """What was embedded; counted by a request of its own where the answer does not tell."""
    if found.usage_metadata is not None:
        return TokenUsage(found.usage_metadata.prompt_token_count)
    body = {"contents": [{"parts": [{"text": text}]} for text in texts]}
    counted = await client.post(f"/{resource}:countTokens", body, wire.Count)
    return TokenUsage(counted.total_tokens)


def _embedding(resource: str, text: str, dimensions: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": resource, "content": {"parts": [{"text": text}]}}
    return body | ({} if dimensions is None else {"outputDimensionality": dimensions})


def _resource(name: str, model: str) -> str:
    """The model's name as it stands in an address, where nothing else may get."""
    if not _NAME.fullmatch(model):
        raise UnknownModel(f"provider {name} can have no model {model[:100]!r}")
    return model if "/" in model else f"models/{model}"


def _offer(model: wire.Model) -> Offer | None:
    """None for models that neither write nor embed."""
    methods = model.supported_generation_methods
    if _WRITES not in methods and _EMBEDS not in methods:
        return None
    return Offer(
        model.name.removeprefix("models/"),
        description=model.display_name,
        context_tokens=model.input_token_limit,
        output_tokens=model.output_token_limit,
        embeds=_WRITES not in methods,
    )
