"""`HttpProvider`: a remote provider; what is specific to one API is behind `ProviderApi`."""

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
)
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.errors import (
    ContextLengthExceeded,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    UnknownModel,
)
from plugins._shared.http_provider import failures, unsupported
from plugins._shared.http_provider.client import HttpClient
from plugins._shared.http_provider.media_fallback import MediaFallback
from plugins._shared.http_provider.model_list_cache import ListedModel, ModelListCache
from plugins._shared.http_provider.options import HttpProviderOptions
from plugins._shared.http_provider.sse import ServerEvent
from plugins._shared.http_provider.temperature_fallback import TemperatureFallback
from plugins._shared.http_provider.tool_names import restore_tool_name, shorten_tool_names

MAX_PARALLEL = 16


class StreamParser(Protocol):
    """Converts a provider's events to CompletionEvents. `done`: the last event was read."""

    done: bool

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """The events in this one. Raises the error that the provider reports, or ProviderFailed."""
        ...

    def finish(self) -> Iterable[CompletionEvent]:
        """What was buffered, then Finished. Raises ProviderFailed if the stream was cut short."""
        ...


class ProviderRequest(Struct):
    """One completion as the provider's API takes it, and the parser of its stream."""

    path: str
    body: dict[str, Any]
    parser: StreamParser


class ProviderApi(Protocol):
    """What one provider's API does. Names of tools have at most `max_tool_name` characters."""

    max_tool_name: int

    async def list_models(self, client: HttpClient) -> Sequence[ListedModel]:
        """The provider's models."""
        ...

    async def build_request(
        self, request: CompletionRequest, model_list: ModelListCache
    ) -> ProviderRequest:
        """Raises InvalidInput for what the provider doesn't support."""
        ...

    async def count_tokens(self, client: HttpClient, request: CompletionRequest) -> int:
        """The number of tokens in the prompt."""
        ...

    async def embed(self, client: HttpClient, request: EmbeddingRequest) -> Embeddings:
        """Raises InvalidInput if the provider has no embeddings."""
        ...


class HttpProvider:
    """Implements appliance.spi.provider.Provider.

    Without configuration it lists no models and contacts nothing; `missing_settings` then
    says what to set.
    """

    def __init__(
        self,
        name: str,
        options: HttpProviderOptions,
        client: HttpClient,
        api: ProviderApi,
        missing_settings: str,
    ) -> None:
        self._name = name
        self._options = options
        self._client = client
        self._api = api
        self._missing_settings = "" if options.configured else missing_settings
        self._model_list = ModelListCache(lambda: api.list_models(client))
        self._temperature_fallback = TemperatureFallback()
        self._media_fallback = MediaFallback()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        """Whether the provider is configured. It is contacted at its first use only."""
        problem = "the server is shutting down" if self._closed else self._missing_settings
        return ProviderStatus(self._name, available=not problem, local=False, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        """The configured models, else the provider's list. Raises the error of the listing."""
        if self._missing_settings:
            return ()
        if self._options.models:
            return [self._info(ListedModel(name)) for name in self._options.models]
        return [self._info(model) for model in await self._model_list.models()]

    async def load(self, model: str) -> None:
        """Loads nothing; checks that the provider is reachable and has the model."""
        self._check_model(model)
        try:
            await self._model_list.check_reachable()
            names = {info.name for info in await self.models()}
        except ProviderFailed as error:
            raise ModelUnavailable(error.message, retry_after=error.retry_after) from error
        if names and model not in names:
            raise UnknownModel(f"provider {self._name} has no model {model!r}")

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The provider's count, or an upper bound if its API has none."""
        self._check_model(request.model)
        request, _ = shorten_tool_names(request, self._api.max_tool_name)
        return await self._api.count_tokens(self._client, request)

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[CompletionEvent, None]:
        """See the SPI. Errors carry `details.retryable`."""
        self._check_model(request.model)
        unsupported.check_request(self._name, request)
        request, tool_names = shorten_tool_names(request, self._api.max_tool_name)
        request = self._media_fallback.adapt(request)
        attempts = deque(self._temperature_fallback.attempts(request))
        while attempts:
            attempt = attempts.popleft()
            try:
                async with aclosing(self._stream_once(attempt)) as events:
                    async for event in events:
                        yield restore_tool_name(event, tool_names)
                return
            except ContextLengthExceeded as error:
                shorter = _cap_to_context(attempt, error)
                if shorter is None:
                    raise
                attempts.appendleft(shorter)
            except InvalidInput as error:
                if self._temperature_fallback.learn_from_error(attempt, error):
                    continue
                without_media = self._media_fallback.learn_from_error(attempt, error)
                if without_media is None:
                    raise
                attempts.appendleft(without_media)

    async def _stream_once(
        self, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        call = await self._api.build_request(request, self._model_list)
        async with self._client.stream(call.path, call.body) as stream:
            parser = call.parser
            while not parser.done and (events := await stream.next_events()) is not None:
                for event in _parse_events(parser, events):
                    yield event
            # A connection is reused only if its response was read to the end.
            await stream.drain()
            for event in parser.finish():
                yield event

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See the SPI."""
        self._check_model(request.model)
        if not request.texts:
            raise InvalidInput.at("texts", "at least one text is required")
        return await self._api.embed(self._client, request)

    async def close(self) -> None:
        """Close every connection; open streams fail with ProviderFailed."""
        self._closed = True
        await self._model_list.close()
        await self._client.close()

    def _check_model(self, model: str) -> None:
        if self._missing_settings or self._closed:
            raise failures.provider_failed(self._name, self.status().problem)
        if self._options.models and model not in self._options.models:
            names = ", ".join(self._options.models)
            raise UnknownModel(f"provider {self._name} has no model {model!r}; configured: {names}")

    def _info(self, model: ListedModel) -> ModelInfo:
        return ModelInfo(
            name=model.name,
            provider=self._name,
            state=ModelState.READY,
            context_tokens=model.context_tokens,
            max_parallel=MAX_PARALLEL,
            description=model.description,
            embeds=model.embeds,
            created_at=model.created_at,
        )


def _cap_to_context(
    request: CompletionRequest, error: ContextLengthExceeded
) -> CompletionRequest | None:
    """The request with the longest answer that fits beside its prompt, None if that can't help.

    Some servers refuse a `max_tokens` larger than what the prompt leaves of the context.
    """
    prompt, context = error.details.get("prompt_tokens"), error.details.get("context_tokens")
    if not error.details.get("max_tokens") or prompt is None or context is None:
        return None
    room = context - prompt
    if request.max_tokens is None or not 0 < room < request.max_tokens:
        return None
    return replace(request, max_tokens=room)


def _parse_events(parser: StreamParser, events: Iterable[ServerEvent]) -> Iterator[CompletionEvent]:
    """Convert the events, up to the stream's last."""
    for event in events:
        yield from parser.feed(event)
        if parser.done:
            return
