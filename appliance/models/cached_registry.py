"""The registry's list of models, cached so that a request needs no query."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence

from appliance.domain.models import ModelFile, ModelProbe
from appliance.models.registry import ModelRegistry
from appliance.store.database import Database

_MAX_AGE_S = 1.0


class CachedModelRegistry:
    """The list of models, reloaded when the database has changed; implements spi.ModelSource.

    Other processes may change the database. Changes are detected by its change stamp, and after
    _MAX_AGE_S in any case. `clock` gives seconds.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._database = database
        self._clock = clock
        self._lock = asyncio.Lock()
        self._files: Sequence[ModelFile] | None = None
        self._stamp: Hashable = None
        self._read_at = 0.0

    async def list(self) -> Sequence[ModelFile]:
        """Every model, the default first, then by alias."""
        files = self._cached()
        if files is not None:
            return files
        async with self._lock:
            files = self._cached()
            return await self._reload() if files is None else files

    async def default(self) -> str | None:
        """The alias of the default model, None if no model is registered."""
        return next((file.alias for file in await self.list() if file.is_default), None)

    async def sha256(self, alias: str) -> str:
        """The SHA-256 of the model's file; "" for a model that is not registered."""
        return next((file.sha256 for file in await self.list() if file.alias == alias), "")

    async def check(self, alias: str) -> ModelFile:
        """See ModelRegistry.check."""
        return await self._registry.check(alias)

    async def probe(self, alias: str) -> ModelProbe | None:
        """See ModelRegistry.probe."""
        return await self._registry.probe(alias)

    async def store_probe(self, alias: str, probe: ModelProbe) -> None:
        """See ModelRegistry.store_probe."""
        await self._registry.store_probe(alias, probe)

    def _cached(self) -> Sequence[ModelFile] | None:
        fresh = self._clock() - self._read_at < _MAX_AGE_S
        return self._files if fresh and self._database.get_change_stamp() == self._stamp else None

    async def _reload(self) -> Sequence[ModelFile]:
        # Read the stamp first: after a commit during the query, the next call reloads.
        self._stamp, self._read_at = self._database.get_change_stamp(), self._clock()
        self._files = await self._registry.list()
        return self._files
