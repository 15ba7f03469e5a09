"""The engines of all registered models: started on demand, unloaded when idle."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from appliance.domain.models import ModelFile
from appliance.errors import ModelUnavailable, UnknownModel
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.supervision.engine_slot import EngineSlot
from plugins.providers.llama_cpp.supervision.engine_types import LoadResult
from plugins.providers.llama_cpp.supervision.load_profiles import LoadProfiles
from plugins.providers.llama_cpp.supervision.memory_budget import MemoryBudget
from plugins.providers.llama_cpp.supervision.options import Options
from plugins.providers.llama_cpp.supervision.request_limit import RequestLimit
from plugins.providers.llama_cpp.supervision.supervisor import (
    CompletionSupervisor,
    ConnectionT,
    EmbeddingSupervisor,
    Supervisor,
    SupervisorDeps,
)

_log = structlog.get_logger()
_COUNTS_PER_OWNER = 8


class EnginePool:
    """One slot per model that has been requested."""

    def __init__(self, context: PluginContext, options: Options) -> None:
        self.load_profiles = LoadProfiles(context.models, options)
        self._context, self._options = context, options
        self._slots: dict[str, EngineSlot] = {}
        self._memory = MemoryBudget(options, self.load_profiles, self._slots.values)
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def find_slot(self, model: str) -> EngineSlot | None:
        """The model's slot, if the model has been requested."""
        return self._slots.get(model)

    async def get_slot(self, model: str) -> EngineSlot:
        """The slot of a registered model. Raises UnknownModel or ModelUnavailable."""
        files = await self.list_files()
        if self._closed:
            raise ModelUnavailable("the server is shutting down")
        file = next((file for file in files if file.alias == model), None)
        if file is None:
            names = ", ".join(sorted(file.alias for file in files)) or "none"
            raise UnknownModel(f"there is no local model {model!r}; registered: {names}")
        return self._slots.get(model) or self._add_slot(file)

    async def connect(self, supervisor: Supervisor[ConnectionT]) -> ConnectionT:
        """The connection to a ready engine; a slow load goes on after this gives up.

        Raises ModelUnavailable, with `retry_after` while the engine is loading.
        """
        try:
            async with asyncio.timeout(self._options.load_wait_s):
                return await supervisor.connect()
        except TimeoutError as error:
            alias = supervisor.file.alias
            raise ModelUnavailable(
                f"the model {alias!r} is being loaded; retry later",
                details={"model": alias},
                retry_after=supervisor.remaining_load_s,
            ) from error

    async def list_files(self) -> Sequence[ModelFile]:
        """The registered files; ends engines whose file was removed or replaced."""
        files = await self._context.models.list()
        current = {file.alias: (file.path, file.sha256, file.embeds) for file in files}
        for alias, slot in list(self._slots.items()):
            loaded = slot.file.path, slot.file.sha256, slot.file.embeds
            if current.get(alias) != loaded:
                del self._slots[alias]
                self._run_in_background(_stop_when_idle(slot))
        return files

    async def unload(self, model: str) -> None:
        """End a model's engine, which frees its memory; its open streams fail."""
        slot = self._slots.pop(model, None)
        if slot is not None:
            await slot.supervisor.stop()

    async def close(self) -> None:
        """End every engine."""
        self._closed = True
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(slot.supervisor.stop() for slot in slots), *self._background)

    def _add_slot(self, file: ModelFile) -> EngineSlot:
        deps = SupervisorDeps(
            self.load_profiles, self._memory.reserve, self._on_ready, self._on_speed
        )
        kind = EmbeddingSupervisor if file.embeds else CompletionSupervisor
        slot = self._slots[file.alias] = EngineSlot(
            kind(self._context, self._options, file, deps),
            RequestLimit(self._options.max_sequences, self._options.queue_limit),
            RequestLimit(1, self._options.queue_limit, per_owner=_COUNTS_PER_OWNER),
            idle_s=self._options.idle_unload_s,
            on_idle=self._unload_idle,
        )
        return slot

    def _on_ready(self, result: LoadResult) -> None:
        self._run_in_background(self.load_profiles.record(result))
        slot = self._slots.get(result.file.alias)
        if slot is not None:
            slot.restart_idle_timer()

    def _on_speed(self, file: ModelFile, tokens_per_second: float) -> None:
        self._run_in_background(self.load_profiles.record_speed(file, tokens_per_second))

    def _unload_idle(self, slot: EngineSlot) -> None:
        if slot.idle:
            _log.info("idle model unloaded", model=slot.file.alias)
            self._run_in_background(slot.supervisor.stop())

    def _run_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _stop_when_idle(slot: EngineSlot) -> None:
    await slot.request_limit.wait_until_idle()
    await slot.supervisor.stop()
