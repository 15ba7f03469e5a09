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
    TextDelta,
)
from appliance.domain.models import ModelFile, ModelInfo, ModelState, ProviderStatus
from appliance.errors import InvalidInput, ModelUnavailable, ProviderFailed, UnknownModel
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.admission import Admission
from plugins.providers.llama_cpp.answer import Answer, LinkError
from plugins.providers.llama_cpp.link import Link
from plugins.providers.llama_cpp.options import read_options
from plugins.providers.llama_cpp.requests import checked
from plugins.providers.llama_cpp.supervisor import Phase, Supervisor

_STATES = {
    Phase.UNLOADED: ModelState.UNLOADED,
    Phase.LOADING: ModelState.LOADING,
    Phase.READY: ModelState.READY,
    Phase.ENDING: ModelState.FAILED,
    Phase.FAILED: ModelState.FAILED,
}
_RETRIES = 1
_COUNT_DEADLINE_S = 60.0


class _Engine:
    """A model's supervisor, and who is admitted to it."""

    def __init__(self, supervisor: Supervisor, admission: Admission) -> None:
        self.supervisor = supervisor
        self.admission = admission


class LlamaCppProvider:
    """Implements appliance.spi.provider.Provider."""

    def __init__(self, name: str, context: PluginContext) -> None:
        """Raises ConfigError for settings of the wrong type. Starts nothing."""
        self._name = name
        self._context = context
        self._options = read_options(context.settings)
        self._engines: dict[str, _Engine] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._installed = find_spec("llama_cpp") is not None
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        """Whether engines can run here at all; a model's own state is in `models`."""
        problem = "" if self._installed else "the package llama-cpp-python is not installed"
        if self._closed:
            problem = "the server is shutting down"
        return ProviderStatus(self._name, available=not problem, local=True, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        """The registered model files, each with its engine's state."""
        return [self._info(file) for file in await self._files()]

    async def load(self, model: str) -> None:
        """Start the model's engine unless it runs, and return when it can serve."""
        await (await self._engine(model)).supervisor.link()

    async def unload(self, model: str) -> None:
        """End the model's engine, which frees its memory; its open streams fail."""
        engine = self._engines.pop(model, None)
        if engine is not None:
            await engine.supervisor.stop()

    def engine_pid(self, model: str) -> int | None:
        """The process id of the model's engine, while it runs."""
        engine = self._engines.get(model)
        return engine.supervisor.pid if engine else None

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The exact tokens of the prompt, template included."""
        request, engine = checked(request), await self._engine(request.model)
        try:
            async with asyncio.timeout(_COUNT_DEADLINE_S + self._options.load_timeout_s):
                link = await engine.supervisor.link()
                return await _prompt_tokens(link, link.count(request))
        except TimeoutError as error:
            raise ProviderFailed("counting the prompt's tokens took too long") from error
        except LinkError as error:
            raise ProviderFailed(f"the engine ended while it counted: {error}") from error

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[CompletionEvent, None]:
        """One completion. A request that an engine's end left unanswered is tried again."""
        request, engine = checked(request), await self._engine(request.model)
        async with engine.admission.enter():
            for attempt in range(_RETRIES + 1):
                delivered = False
                try:
                    async with aclosing(self._run(engine.supervisor, request)) as events:
                        async for event in events:
                            delivered = delivered or isinstance(event, TextDelta)
                            yield event
                    return
                except LinkError as error:
                    if delivered or attempt == _RETRIES or not error.can_retry:
                        raise _failed(request.model, error) from error

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors for texts. Raises InvalidInput for a model that writes text."""
        await self._engine(request.model)
        raise InvalidInput.at("model", f"{request.model!r} writes text; it makes no embeddings")

    async def close(self) -> None:
        """End every engine; open streams fail with ProviderFailed."""
        self._closed = True
        engines, self._engines = list(self._engines.values()), {}
        stops = [engine.supervisor.stop() for engine in engines]
        await asyncio.gather(*stops, *self._retiring)

    async def _run(
        self, supervisor: Supervisor, request: CompletionRequest
    ) -> AsyncGenerator[CompletionEvent, None]:
        """One attempt. Raises LinkError when the engine ends."""
        link = await supervisor.link()
        answer = link.submit(request)
        try:
            async for event in answer.events():
                if isinstance(event, Finished):
                    supervisor.worked(link)
                yield event
        finally:
            link.close_answer(answer)

    async def _engine(self, model: str) -> _Engine:
        """The engine of a registered model. Raises UnknownModel or ModelUnavailable."""
        files = await self._files()
        if self._closed:
            raise ModelUnavailable("the server is shutting down")
        file = next((file for file in files if file.alias == model), None)
        if file is None:
            known = ", ".join(sorted(file.alias for file in files)) or "none"
            raise UnknownModel(f"there is no local model {model!r}; there are: {known}")
        engine = self._engines.get(model)
        if engine is None:
            supervisor = Supervisor(self._context, self._options, file)
            admission = Admission(self._options.max_sequences, self._options.queue_limit)
            engine = self._engines[model] = _Engine(supervisor, admission)
        return engine

    async def _files(self) -> Sequence[ModelFile]:
        """The registered files; engines whose file is gone or another now are ended."""
        files = await self._context.models.list()
        paths = {file.alias: file.path for file in files}
        for alias, engine in list(self._engines.items()):
            if paths.get(alias) != engine.supervisor.file.path:
                del self._engines[alias]
                self._retire(engine)
        return files

    def _retire(self, engine: _Engine) -> None:
        task = asyncio.create_task(_after_last(engine))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _info(self, file: ModelFile) -> ModelInfo:
        engine = self._engines.get(file.alias)
        supervisor = engine.supervisor if engine else None
        ready = supervisor.ready if supervisor else None
        wanted = self._options.default
        return ModelInfo(
            name=file.alias,
            provider=self._name,
            state=_STATES[supervisor.phase] if supervisor else ModelState.UNLOADED,
            context_tokens=ready.context_tokens if ready else file.context_tokens or None,
            max_parallel=self._options.max_sequences,
            decode_tokens_per_second=supervisor.speed if supervisor else None,
            is_default=file.alias == wanted if wanted else file.is_default,
            description=ready.description if ready else f"{file.architecture} {file.quantization}",
            problem=supervisor.problem if supervisor else "",
        )


async def _after_last(engine: _Engine) -> None:
    await engine.admission.empty()
    await engine.supervisor.stop()


async def _prompt_tokens(link: Link, answer: Answer) -> int:
    try:
        async for event in answer.events():
            if isinstance(event, Finished):
                return event.usage.prompt_tokens
    finally:
        link.close_answer(answer)
    raise ProviderFailed("the engine gave no count")


def _failed(model: str, error: LinkError) -> ProviderFailed:
    return ProviderFailed(
        f"the engine of {model!r} ended before the answer was complete: {error}",
        details={"model": model},
    )
