"""The provider of the models on this machine: one engine process per loaded model."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any, TypeVar

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Finished,
    TokenUsage,
)
from appliance.domain.models import ModelFile, ModelInfo, ModelState, ProviderStatus
from appliance.errors import ProviderFailed
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.supervision.completion_connection import CompletionConnection
from plugins.providers.llama_cpp.supervision.completion_stream import CompletionStream
from plugins.providers.llama_cpp.supervision.embeddings import (
    compute_embeddings,
    validate_embedding,
)
from plugins.providers.llama_cpp.supervision.engine_pool import EnginePool
from plugins.providers.llama_cpp.supervision.engine_types import EngineLostError
from plugins.providers.llama_cpp.supervision.options import read_options
from plugins.providers.llama_cpp.supervision.supervisor import (
    CompletionSupervisor,
    EmbeddingSupervisor,
    Phase,
)
from plugins.providers.llama_cpp.supervision.validation import validate_completion

_STATES = {
    Phase.UNLOADED: ModelState.UNLOADED,
    Phase.LOADING: ModelState.LOADING,
    Phase.READY: ModelState.READY,
    Phase.STOPPING: ModelState.FAILED,
    Phase.FAILED: ModelState.FAILED,
}
_RETRIES = 1
_COUNT_TIMEOUT_S = 60.0
_AnswerT = TypeVar("_AnswerT")


class MeteredEvents:
    """Implements appliance.spi.provider.MeteredStream.

    `make` creates the generator of events, which sets `prompt_usage` before its first event, and
    `usage` at its end, also if it is ended early.
    """

    def __init__(
        self, make: Callable[["MeteredEvents"], AsyncGenerator[CompletionEvent, None]]
    ) -> None:
        self.usage: TokenUsage | None = None
        self.prompt_usage: TokenUsage | None = None
        self._events = make(self)

    def __aiter__(self) -> "MeteredEvents":
        return self

    async def __anext__(self) -> CompletionEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End the stream at once."""
        await self._events.aclose()


class LlamaCppProvider:
    """Implements appliance.spi.provider.Provider.

    A request is retried once if its engine ended before anything was delivered.
    """

    def __init__(self, name: str, context: PluginContext) -> None:
        """Raises ConfigError for settings of the wrong type. Starts nothing."""
        self._name = name
        self._options = read_options(context.settings)
        self.pool = EnginePool(context, self._options)
        self._installed = find_spec("llama_cpp") is not None

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        """Whether engines can run at all; `models` has the state of each model."""
        problem = "" if self._installed else "the package llama-cpp-python is not installed"
        if self.pool.closed:
            problem = "the server is shutting down"
        return ProviderStatus(self._name, available=not problem, local=True, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        """The registered model files, each with its engine's state."""
        return [await self._model_info(file) for file in await self.pool.list_files()]

    async def load(self, model: str) -> None:
        """Start the model's engine unless it runs, and return when it is ready."""
        slot = await self.pool.get_slot(model)
        with slot.in_use():
            await slot.supervisor.connect()

    async def unload(self, model: str) -> None:
        """End the model's engine, which frees its memory; its open streams fail."""
        await self.pool.unload(model)

    def engine_pid(self, model: str) -> int | None:
        """The process id of the model's engine, while it runs."""
        slot = self.pool.find_slot(model)
        return slot.supervisor.pid if slot else None

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The exact number of tokens in the prompt, chat template included."""
        request, slot = await _validate(request), await self.pool.get_slot(request.model)
        supervisor = slot.completion_supervisor()
        try:
            async with slot.count_limit.admit(request.owner):
                with slot.in_use():
                    return await _retry(
                        request.model, lambda: self._count_once(supervisor, request)
                    )
        except TimeoutError as error:
            raise ProviderFailed(
                f"counting the prompt's tokens took longer than {_COUNT_TIMEOUT_S:g} s"
            ) from error

    def stream(self, request: CompletionRequest) -> MeteredEvents:
        """See the SPI."""
        return MeteredEvents(lambda meter: self._complete(request, meter))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See the SPI. Raises InvalidInput for a text model."""
        request, slot = validate_embedding(request), await self.pool.get_slot(request.model)
        supervisor = slot.embedding_supervisor()
        async with slot.request_limit.admit():
            with slot.in_use():
                return await _retry(request.model, lambda: self._embed_once(supervisor, request))

    async def close(self) -> None:
        """End every engine; open streams fail with ProviderFailed."""
        await self.pool.close()

    async def _complete(
        self, request: CompletionRequest, meter: MeteredEvents
    ) -> AsyncGenerator[CompletionEvent, None]:
        request, slot = await _validate(request), await self.pool.get_slot(request.model)
        supervisor = slot.completion_supervisor()
        async with slot.request_limit.admit():
            with slot.in_use():
                for attempt in range(_RETRIES + 1):
                    delivered = False
                    try:
                        async with aclosing(self._attempt(supervisor, request, meter)) as events:
                            async for event in events:
                                delivered = delivered or not isinstance(event, Finished)
                                yield event
                        return
                    except EngineLostError as error:
                        if delivered or attempt == _RETRIES or not error.retryable:
                            raise _engine_lost(request.model, error) from error

    async def _attempt(
        self, supervisor: CompletionSupervisor, request: CompletionRequest, meter: MeteredEvents
    ) -> AsyncGenerator[CompletionEvent, None]:
        """One attempt at a completion. Raises EngineLostError."""
        connection = await self.pool.connect(supervisor)
        stream: CompletionStream | None = None
        try:
            async with connection.completion(request) as stream:
                async for event in stream.events():
                    meter.prompt_usage = stream.prompt_usage
                    if isinstance(event, Finished):
                        supervisor.record_success(connection)
                    yield event
        finally:
            meter.usage = stream.usage if stream else None

    async def _count_once(
        self, supervisor: CompletionSupervisor, request: CompletionRequest
    ) -> int:
        connection = await self.pool.connect(supervisor)
        async with asyncio.timeout(_COUNT_TIMEOUT_S):
            return await _read_count(connection, request)

    async def _embed_once(
        self, supervisor: EmbeddingSupervisor, request: EmbeddingRequest
    ) -> Embeddings:
        connection = await self.pool.connect(supervisor)
        context_tokens = supervisor.ready.context_tokens if supervisor.ready else 0
        embeddings = await compute_embeddings(request, connection, context_tokens)
        supervisor.record_success(connection)
        return embeddings

    async def _model_info(self, file: ModelFile) -> ModelInfo:
        slot = self.pool.find_slot(file.alias)
        profile = await self.pool.load_profiles.find(file)
        supervisor = slot.supervisor if slot else None
        ready = supervisor.ready if supervisor else None
        speed = supervisor.decode_speed if supervisor else None
        default = self._options.default
        return ModelInfo(
            name=file.alias,
            provider=self._name,
            state=_STATES[supervisor.phase] if supervisor else ModelState.UNLOADED,
            context_tokens=ready.context_tokens if ready else file.context_tokens or None,
            max_parallel=self._options.max_sequences,
            decode_tokens_per_second=speed
            or (profile.decode_tokens_per_second if profile else None),
            is_default=file.alias == default if default else file.is_default,
            description=", ".join(filter(None, [file.description, ready.note if ready else ""])),
            problem=supervisor.problem if supervisor else "",
            prefill_tokens_per_second=profile.prefill_tokens_per_second if profile else None,
            memory_bytes=profile.memory_bytes if profile else None,
            embeds=file.embeds,
            fills_in=file.fills_in,
            layers=ready.confinement_layers if ready else (),
            degraded=ready.confinement_gaps if ready else (),
            created_at=file.created_at or None,
            restartable=supervisor.restartable if supervisor else False,
        )


async def _retry(model: str, attempt: Callable[[], Awaitable[_AnswerT]]) -> _AnswerT:
    """The attempt's answer; tried again if the engine ended, unless that may be its fault.

    Raises ProviderFailed.
    """
    for tried in range(_RETRIES + 1):
        try:
            return await attempt()
        except EngineLostError as error:
            if tried == _RETRIES or not error.retryable:
                raise _engine_lost(model, error) from error
    raise AssertionError("the last attempt returns or raises")


async def _validate(request: CompletionRequest) -> CompletionRequest:
    """As validate_completion does; schemas of many values take tens of milliseconds."""
    if request.tools or request.output.schema is not None:
        return await asyncio.to_thread(validate_completion, request)
    return validate_completion(request)


async def _read_count(connection: CompletionConnection, request: CompletionRequest) -> int:
    async with connection.token_count(request) as stream:
        async for event in stream.events():
            if isinstance(event, Finished):
                return event.usage.prompt_tokens
    raise ProviderFailed("the engine returned no token count")


def _engine_lost(model: str, error: EngineLostError) -> ProviderFailed:
    details: dict[str, Any] = {"model": model}
    if error.stalled:
        details |= {"stalled": True, "retryable": False}
    return ProviderFailed(
        f"the engine of {model!r} ended before the request was complete: {error}", details=details
    )
