"""The provider: this box's own models, each served by an engine process of its own."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from importlib.util import find_spec

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Finished,
)
from appliance.domain.models import ModelFile, ModelInfo, ModelState, ProviderStatus
from appliance.errors import ProviderFailed
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.supervision import embeddings
from plugins.providers.llama_cpp.supervision.answer_stream import Answer, LinkError
from plugins.providers.llama_cpp.supervision.connection import Link
from plugins.providers.llama_cpp.supervision.engine_pool import Fleet
from plugins.providers.llama_cpp.supervision.metered import Metered
from plugins.providers.llama_cpp.supervision.options import read_options
from plugins.providers.llama_cpp.supervision.supervisor import Embedder, Phase, Writer
from plugins.providers.llama_cpp.supervision.validation import checked

_STATES = {
    Phase.UNLOADED: ModelState.UNLOADED,
    Phase.LOADING: ModelState.LOADING,
    Phase.READY: ModelState.READY,
    Phase.ENDING: ModelState.FAILED,
    Phase.FAILED: ModelState.FAILED,
}
_RETRIES = 1
_COUNT_DEADLINE_S = 60.0


class LlamaCppProvider:
    """Implements appliance.spi.provider.Provider."""

    def __init__(self, name: str, context: PluginContext) -> None:
        """Raises ConfigError for settings of the wrong type. Starts nothing."""
        self._name = name
        self._options = read_options(context.settings)
        self.fleet = Fleet(context, self._options)
        self._installed = find_spec("llama_cpp") is not None

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        """Whether engines can run here at all; a model's own state is in `models`."""
        problem = "" if self._installed else "the package llama-cpp-python is not installed"
        if self.fleet.closed:
            problem = "the server is shutting down"
        return ProviderStatus(self._name, available=not problem, local=True, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        """The registered model files, each with its engine's state."""
        return [await self._info(file) for file in await self.fleet.files()]

    async def load(self, model: str) -> None:
        """Start the model's engine unless it runs, and return when it can serve."""
        tenant = await self.fleet.tenant(model)
        with tenant.using():
            await tenant.supervisor.link()

    async def unload(self, model: str) -> None:
        """End the model's engine, which frees its memory; its open streams fail."""
        await self.fleet.unload(model)

    def engine_pid(self, model: str) -> int | None:
        """The process id of the model's engine, while it runs."""
        tenant = self.fleet.known(model)
        return tenant.supervisor.pid if tenant else None

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The exact tokens of the prompt, template included."""
        request, tenant = checked(request), await self.fleet.tenant(request.model)
        supervisor = tenant.writer()
        try:
            with tenant.using():
                link = await self.fleet.link(supervisor)
                async with asyncio.timeout(_COUNT_DEADLINE_S):
                    return await _prompt_tokens(link, link.count(request))
        except TimeoutError as error:
            raise ProviderFailed("counting the prompt's tokens took too long") from error
        except LinkError as error:
            raise ProviderFailed(f"the engine ended while it counted: {error}") from error

    def stream(self, request: CompletionRequest) -> Metered:
        """One completion. A request that an engine's end left unanswered is tried again."""
        return Metered(lambda meter: self._completed(request, meter))

    async def _completed(
        self, request: CompletionRequest, meter: Metered
    ) -> AsyncGenerator[CompletionEvent, None]:
        request, tenant = checked(request), await self.fleet.tenant(request.model)
        supervisor = tenant.writer()
        async with tenant.admission.enter():
            with tenant.using():
                for attempt in range(_RETRIES + 1):
                    delivered = False
                    try:
                        async with aclosing(self._run(supervisor, request, meter)) as events:
                            async for event in events:
                                delivered = delivered or not isinstance(event, Finished)
                                yield event
                        return
                    except LinkError as error:
                        if delivered or attempt == _RETRIES or not error.can_retry:
                            raise _failed(request.model, error) from error

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors for texts. Raises InvalidInput for a model that writes text."""
        request, tenant = embeddings.checked(request), await self.fleet.tenant(request.model)
        supervisor = tenant.embedder()
        async with tenant.admission.enter():
            with tenant.using():
                return await self._embedded(supervisor, request)

    async def close(self) -> None:
        """End every engine; open streams fail with ProviderFailed."""
        await self.fleet.close()

    async def _embedded(self, supervisor: Embedder, request: EmbeddingRequest) -> Embeddings:
        """A request that an engine's end left unanswered is tried again."""
        for attempt in range(_RETRIES + 1):
            try:
                link = await self.fleet.link(supervisor)
                room = supervisor.ready.context_tokens if supervisor.ready else 0
                made = await embeddings.embed(request, link, room)
                supervisor.worked(link)
                return made
            except LinkError as error:
                if attempt == _RETRIES or not error.can_retry:
                    raise _failed(request.model, error) from error
        raise ProviderFailed("the engine gave no vectors")

    async def _run(
        self, supervisor: Writer, request: CompletionRequest, meter: Metered
    ) -> AsyncGenerator[CompletionEvent, None]:
        """One attempt. Raises LinkError when the engine ends."""
        link = await self.fleet.link(supervisor)
        answer = link.submit(request)
        try:
            async for event in answer.events():
                if isinstance(event, Finished):
                    supervisor.worked(link)
                yield event
        finally:
            meter.usage = await link.end(answer)

    async def _info(self, file: ModelFile) -> ModelInfo:
        tenant, known = self.fleet.known(file.alias), await self.fleet.records.of(file)
        supervisor = tenant.supervisor if tenant else None
        ready = supervisor.ready if supervisor else None
        speed = supervisor.speed if supervisor else None
        wanted = self._options.default
        return ModelInfo(
            name=file.alias,
            provider=self._name,
            state=_STATES[supervisor.phase] if supervisor else ModelState.UNLOADED,
            context_tokens=ready.context_tokens if ready else file.context_tokens or None,
            max_parallel=self._options.max_sequences,
            decode_tokens_per_second=speed or (known.decode_tokens_per_second if known else None),
            is_default=file.alias == wanted if wanted else file.is_default,
            description=ready.description if ready else f"{file.architecture} {file.quantization}",
            problem=supervisor.problem if supervisor else "",
            prefill_tokens_per_second=known.prefill_tokens_per_second if known else None,
            memory_bytes=known.memory_bytes if known else None,
            embeds=file.embeds,
            fills_in=file.fills_in,
            layers=ready.walls if ready else (),
            degraded=ready.breaches if ready else (),
            created_at=file.created_at or None,
        )


async def _prompt_tokens(link: Link, answer: Answer) -> int:
    try:
        async for event in answer.events():
            if isinstance(event, Finished):
                return event.usage.prompt_tokens
    finally:
        link.forget(answer)
    raise ProviderFailed("the engine gave no count")


def _failed(model: str, error: LinkError) -> ProviderFailed:
    return ProviderFailed(
        f"the engine of {model!r} ended before the answer was complete: {error}",
        details={"model": model},
    )
