"""A far provider: what all of them do alike, around what each one's API is."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from msgspec import Struct

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
)
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.errors import InvalidInput, ModelUnavailable, ProviderFailed, UnknownModel
from plugins._shared.http_provider import failures, unsupported
from plugins._shared.http_provider.client import Client
from plugins._shared.http_provider.model_list_cache import Catalogue, Offer
from plugins._shared.http_provider.options import Options
from plugins._shared.http_provider.sse import ServerEvent
from plugins._shared.http_provider.temperature_fallback import Temper

PARALLEL = 16


class Reader(Protocol):
    """Makes the box's events of the provider's. `done`: the provider has said its last."""

    done: bool

    def feed(self, event: ServerEvent) -> Iterable[CompletionEvent]:
        """What this event tells. Raises what the provider reports or ProviderFailed."""
        ...

    def end(self) -> Iterable[CompletionEvent]:
        """What was held back, and Finished. Raises ProviderFailed for an answer cut short."""
        ...


class Call(Struct):
    """One completion in the provider's own words, and who reads the answer."""

    path: str
    body: dict[str, Any]
    reader: Reader


class Dialect(Protocol):
    """A provider's API."""

    async def list(self, client: Client) -> Sequence[Offer]:
        """The models on offer."""
        ...

    async def call(self, request: CompletionRequest, catalogue: Catalogue) -> Call:
        """Raises InvalidInput for what the provider can't do."""
        ...

    async def count(self, client: Client, request: CompletionRequest) -> int:
        """The tokens of the prompt."""
        ...

    async def embed(self, client: Client, request: EmbeddingRequest) -> Embeddings:
        """Raises InvalidInput where the provider makes no vectors."""
        ...


class UpstreamProvider:
    """Implements appliance.spi.provider.Provider.

    `missing` says what to set where nothing is configured: then no model is offered and
    nothing is contacted.
    """

    def __init__(
        self, name: str, options: Options, client: Client, dialect: Dialect, missing: str
    ) -> None:
        self._name = name
        self._options = options
        self._client = client
        self._dialect = dialect
        self._missing = "" if options.configured else missing
        self._catalogue = Catalogue(lambda: dialect.list(client))
        self._temper = Temper()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        """Whether it is configured; whether it can be reached shows at its first use."""
        problem = "the server is shutting down" if self._closed else self._missing
        return ProviderStatus(self._name, available=not problem, local=False, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        """The configured models, or those that the provider lists. Raises what listing raises."""
        if self._missing:
            return ()
        if self._options.models:
            return [self._info(Offer(name)) for name in self._options.models]
        return [self._info(offer) for offer in await self._catalogue.offers()]

    async def load(self, model: str) -> None:
        """Nothing is loaded; checks that the provider can be reached and has the model."""
        self._check(model)
        try:
            await self._catalogue.reach()
            known = {info.name for info in await self.models()}
        except ProviderFailed as error:
            raise ModelUnavailable(error.message, retry_after=error.retry_after) from error
        if known and model not in known:
            raise UnknownModel(f"provider {self._name} has no model {model!r}")

    async def count_tokens(self, request: CompletionRequest) -> int:
        """As the provider counts, or an upper bound where it does not tell."""
        self._check(request.model)
        return await self._dialect.count(self._client, request)

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[CompletionEvent, None]:
        """See the SPI. What fails is told with `details.retryable`."""
        self._check(request.model)
        unsupported.check(self._name, request)
        for version in self._temper.versions(request):
            try:
                call = await self._dialect.call(version, self._catalogue)
                async with self._client.stream(call.path, call.body) as stream:
                    while not call.reader.done and (events := await stream.events()) is not None:
                        for told in _told(call.reader, events):
                            yield told
                    # Only then can the connection serve the next request.
                    await stream.drain()
                    for told in call.reader.end():
                        yield told
                return
            except InvalidInput as error:
                if not self._temper.learn(version, error):
                    raise

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See the SPI."""
        self._check(request.model)
        if not request.texts:
            raise InvalidInput.at("texts", "give at least one")
        return await self._dialect.embed(self._client, request)

    async def close(self) -> None:
        """Close every connection; streams still open fail with ProviderFailed."""
        self._closed = True
        await self._catalogue.close()
        await self._client.close()

    def _check(self, model: str) -> None:
        if self._missing or self._closed:
            raise failures.failed(self._name, self.status().problem)
        if self._options.models and model not in self._options.models:
            names = ", ".join(self._options.models)
            raise UnknownModel(f"provider {self._name} offers only: {names}")

    def _info(self, offer: Offer) -> ModelInfo:
        return ModelInfo(
            name=offer.name,
            provider=self._name,
            state=ModelState.READY,
            context_tokens=offer.context_tokens,
            max_parallel=PARALLEL,
            description=offer.description,
            embeds=offer.embeds,
            created_at=offer.created_at,
        )


def _told(reader: Reader, events: Iterable[ServerEvent]) -> Iterator[CompletionEvent]:
    """What these events tell, up to the provider's last."""
    for event in events:
        yield from reader.feed(event)
        if reader.done:
            return
