"""The registered models without a read of the database for each request."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.domain.models import ModelFile, ModelProbe
from appliance.models.registry import ModelRegistry

_MAX_AGE_S = 1.0
_Stamp = tuple[int, int] | None


class ModelList:
    """The registry's list, read again when the database has changed; implements spi.ModelSource.

    Any process may change it: what tells is the database's log (its WAL), whose time and
    size change with each commit. `clock` gives seconds.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        database: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._log = database.with_name(database.name + "-wal")
        self._clock = clock
        self._turn = asyncio.Lock()
        self._files: Sequence[ModelFile] | None = None
        self._stamp: _Stamp = None
        self._read_at = 0.0

    async def list(self) -> Sequence[ModelFile]:
        """Every model, the default first, then by alias."""
        files = self._current()
        if files is not None:
            return files
        async with self._turn:
            files = self._current()
            return await self._read() if files is None else files

    async def default(self) -> str | None:
        """The alias of the default model, None while there is no model at all."""
        return next((file.alias for file in await self.list() if file.is_default), None)

    async def sha256(self, alias: str) -> str:
        """Of the model's file; "" for a model that is not registered here."""
        return next((file.sha256 for file in await self.list() if file.alias == alias), "")

    async def check(self, alias: str) -> ModelFile:
        """See ModelRegistry.check."""
        return await self._registry.check(alias)

    async def probe(self, alias: str) -> ModelProbe | None:
        """See ModelRegistry.probe."""
        return await self._registry.probe(alias)

    async def keep_probe(self, alias: str, probe: ModelProbe) -> None:
        """See ModelRegistry.keep_probe."""
        await self._registry.keep_probe(alias, probe)

    def _current(self) -> Sequence[ModelFile] | None:
        fresh = self._clock() - self._read_at < _MAX_AGE_S
        return self._files if fresh and self._stamp_now() == self._stamp else None

    async def _read(self) -> Sequence[ModelFile]:
        # The stamp first: a commit during the read makes the next call read again.
        self._stamp, self._read_at = self._stamp_now(), self._clock()
        self._files = await self._registry.list()
        return self._files

    def _stamp_now(self) -> _Stamp:
        try:
            found = os.stat(self._log)  # noqa: PTH116 (per request: Path.stat takes twice as long)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size
