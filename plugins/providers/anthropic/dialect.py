"""Anthropic's API: messages, exact counts, the list of models; it makes no vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.domain.messages import CompletionRequest, EmbeddingRequest, Embeddings
from appliance.errors import InvalidInput
from appliance.spi.provider import Provider
from plugins._shared.http_provider.client import Client
from plugins._shared.http_provider.model_list_cache import MAX_MODELS, Catalogue, Offer, moment
from plugins._shared.http_provider.options import address, missing, read_options
from plugins._shared.http_provider.provider import Call, UpstreamProvider
from plugins.providers.anthropic import requests, wire
from plugins.providers.anthropic.reader import Reader

_OWN = "https://api.anthropic.com"
_VERSION = "/v1"
_API_VERSION = "2023-06-01"
_LIST_S = 10.0
_PAGE = 1000
# The API wants a bound in every request; this one suits each model since Claude 3.5.
_USUAL_MAX_TOKENS = 8192


class Anthropic:
    """Implements plugins._shared.http_provider.provider.Dialect."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self, client: Client) -> Sequence[Offer]:
        offers, params = list[Offer](), {"limit": str(_PAGE)}
        for _ in range(MAX_MODELS // _PAGE):
            page = await client.get("/models", wire.ModelList, params, timeout_s=_LIST_S)
            offers += [_offer(model) for model in page.data or () if model.lifecycle != "retired"]
            if not (page.has_more and page.last_id and page.data):
                break
            params["after_id"] = page.last_id
        return offers

    async def call(self, request: CompletionRequest, catalogue: Catalogue) -> Call:
        name = self._client.name
        max_tokens = request.max_tokens
        if max_tokens is None:
            offer = await catalogue.find(request.model)
            max_tokens = (offer.output_tokens if offer else None) or _USUAL_MAX_TOKENS
        body = requests.message(name, request, max_tokens)
        return Call("/messages", body, Reader(name, self._client.said))

    async def count(self, client: Client, request: CompletionRequest) -> int:
        body = requests.prompt(client.name, request)
        return (await client.post("/messages/count_tokens", body, wire.Count)).input_tokens

    async def embed(self, client: Client, request: EmbeddingRequest) -> Embeddings:
        raise InvalidInput.at(
            "model", f"{request.model!r}: provider {client.name} makes no embeddings"
        )


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """The provider of that name. Raises ConfigError for settings that can't be used."""
    options = read_options(name, settings)
    headers = {"anthropic-version": _API_VERSION}
    if options.api_key:
        headers["x-api-key"] = options.api_key
    base_url = address(options.base_url, _OWN, _VERSION, always=True)
    client = Client(name, base_url, options, headers)
    return UpstreamProvider(name, options, client, Anthropic(client), missing(name, "anthropic"))


def _offer(model: wire.Model) -> Offer:
    return Offer(
        model.id,
        description=model.display_name,
        context_tokens=model.max_input_tokens,
        output_tokens=model.max_tokens,
        created_at=moment(model.created_at),
    )
