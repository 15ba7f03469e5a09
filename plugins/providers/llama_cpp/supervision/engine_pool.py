"""The engines of all registered models: made when first asked for, ended when not needed."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from appliance.domain.models import ModelFile
from appliance.errors import ModelUnavailable, UnknownModel
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.supervision.engine_slot import Tenant
from plugins.providers.llama_cpp.supervision.engine_types import House, Loaded, WireT
from plugins.providers.llama_cpp.supervision.load_profiles import Records
from plugins.providers.llama_cpp.supervision.memory_budget import Memory
from plugins.providers.llama_cpp.supervision.options import Options
from plugins.providers.llama_cpp.supervision.request_limit import Admission
from plugins.providers.llama_cpp.supervision.supervisor import Embedder, Supervisor, Writer

_log = structlog.get_logger()


class Fleet:
    """One tenant per model that was asked for."""

    def __init__(self, context: PluginContext, options: Options) -> None:
        self.records = Records(context.models, options)
        self._context, self._options = context, options
        self._tenants: dict[str, Tenant] = {}
        self._memory = Memory(options, self.records, self._tenants.values)
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def known(self, model: str) -> Tenant | None:
        """The model's tenant, if it was ever asked for."""
        return self._tenants.get(model)

    async def tenant(self, model: str) -> Tenant:
        """The engine of a registered model. Raises UnknownModel or ModelUnavailable."""
        files = await self.files()
        if self._closed:
            raise ModelUnavailable("the server is shutting down")
        file = next((file for file in files if file.alias == model), None)
        if file is None:
            known = ", ".join(sorted(file.alias for file in files)) or "none"
            raise UnknownModel(f"there is no local model {model!r}; there are: {known}")
        return self._tenants.get(model) or self._settle(file)

    async def link(self, supervisor: Supervisor[WireT]) -> WireT:
        """The connection to a ready engine; a load that takes long goes on without us.

        Raises ModelUnavailable, with the time to come back where it is loading.
        """
        try:
            async with asyncio.timeout(self._options.load_wait_s):
                return await supervisor.link()
        except TimeoutError as error:
            alias = supervisor.file.alias
            raise ModelUnavailable(
                f"the model {alias!r} is being loaded; try again soon",
                details={"model": alias},
                retry_after=supervisor.expected_s,
            ) from error

    async def files(self) -> Sequence[ModelFile]:
        """The registered files; engines whose file is gone or another now are ended."""
        files = await self._context.models.list()
        now = {file.alias: (file.path, file.sha256, file.embeds) for file in files}
        for alias, tenant in list(self._tenants.items()):
            was = tenant.file.path, tenant.file.sha256, tenant.file.embeds
            if now.get(alias) != was:
                del self._tenants[alias]
                self._in_background(_after_last(tenant))
        return files

    async def unload(self, model: str) -> None:
        """End a model's engine, which frees its memory; its open streams fail."""
        tenant = self._tenants.pop(model, None)
        if tenant is not None:
            await tenant.supervisor.stop()

    async def close(self) -> None:
        """End every engine."""
        self._closed = True
        tenants = list(self._tenants.values())
        self._tenants.clear()
        await asyncio.gather(*(tenant.supervisor.stop() for tenant in tenants), *self._ending)

    def _settle(self, file: ModelFile) -> Tenant:
        house = House(self.records, self._memory.make_room, self._loaded)
        kind = Embedder if file.embeds else Writer
        tenant = self._tenants[file.alias] = Tenant(
            kind(self._context, self._options, file, house),
            Admission(self._options.max_sequences, self._options.queue_limit),
            idle_s=self._options.idle_unload_s,
            on_idle=self._unload_idle,
        )
        return tenant

    def _loaded(self, loaded: Loaded) -> None:
        self._in_background(self.records.keep(loaded))
        tenant = self._tenants.get(loaded.file.alias)
        if tenant is not None:
            tenant.rest()

    def _unload_idle(self, tenant: Tenant) -> None:
        if tenant.idle:
            _log.info("idle model unloaded", model=tenant.file.alias)
            self._in_background(tenant.supervisor.stop())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _after_last(tenant: Tenant) -> None:
    await tenant.admission.empty()
    await tenant.supervisor.stop()
