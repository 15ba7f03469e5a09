"""OpenAI's API: chats, raw completions, embeddings, the list of models."""

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
from plugins._shared.http_provider.client import Client
from plugins._shared.http_provider.model_list_cache import Catalogue, Offer, moment
from plugins._shared.http_provider.options import address, missing, read_options
from plugins._shared.http_provider.provider import Call, UpstreamProvider
from plugins.providers.openai import requests, wire
from plugins.providers.openai.reader import Reader
from plugins.providers.openai.token_count import Counter

_OWN = "https://api.openai.com"
_VERSION = "/v1"
_LLAMA_SERVER = "llama.cpp"
_LIST_S = 10.0
_TEXTS_AT_ONCE = 256


class OpenAI:
    """Implements plugins._shared.http_provider.provider.Dialect."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._official = urlsplit(client.base_url).hostname == urlsplit(_OWN).hostname
        self._counter = Counter(official=self._official)

    async def list(self, client: Client) -> Sequence[Offer]:
        found = await client.get("/models", wire.ModelList, timeout_s=_LIST_S)
        return [_offer(model) for model in found.data or ()]

    async def call(self, request: CompletionRequest, catalogue: Catalogue) -> Call:
        name = self._client.name
        reader = Reader(name, self._client.said)
        if request.raw is not None:
            await self._check_suffix(request.raw, catalogue)
            body = requests.completion(name, request, official=self._official)
            return Call("/completions", body, reader)
        return Call(
            "/chat/completions", requests.chat(name, request, official=self._official), reader
        )

    async def _check_suffix(self, raw: RawPrompt, catalogue: Catalogue) -> None:
        """llama-server drops a suffix without a word, and would answer something else."""
        if raw.suffix is None:
            return
        if not self._client.server:
            await catalogue.find("")
        if self._client.server.startswith(_LLAMA_SERVER):
            raise unsupported.cannot(self._client.name, "suffix")

    async def count(self, client: Client, request: CompletionRequest) -> int:
        return await self._counter.count(client, request)

    async def embed(self, client: Client, request: EmbeddingRequest) -> Embeddings:
        made, usage = list[tuple[float, ...]](), TokenUsage()
        for texts in embeddings.batches(request.texts, _TEXTS_AT_ONCE):
            body: dict[str, Any] = {"model": request.model, "input": list(texts)}
            body["encoding_format"] = "float"
            if request.dimensions is not None:
                body["dimensions"] = request.dimensions
            found = await client.post("/embeddings", body, wire.Vectors)
            embeddings.check_count(client.name, len(found.data), len(texts))
            in_order = sorted(found.data, key=lambda vector: vector.index)
            made += [embeddings.of_length_one(client.name, item.embedding) for item in in_order]
            usage += TokenUsage(found.usage.prompt_tokens if found.usage else 0)
        return Embeddings(tuple(made), usage)


def build(name: str, settings: Mapping[str, Any]) -> Provider:
    """The provider of that name. Raises ConfigError for settings that can't be used."""
    options = read_options(name, settings)
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    client = Client(name, address(options.base_url, _OWN, _VERSION), options, headers)
    return UpstreamProvider(name, options, client, OpenAI(client), missing(name, "openai"))


def _offer(model: wire.Model) -> Offer:
    """What vLLM (max_model_len) and llama-server (meta) tell beside the name is used."""
    room = model.max_model_len
    for key in ("n_ctx", "n_ctx_train"):
        if room is None and isinstance(found := (model.meta or {}).get(key), int):
            room = found
    embeds, created = "embed" in model.id.lower(), moment(model.created)
    return Offer(model.id, context_tokens=room, embeds=embeds, created_at=created)
