"""Base class of the sandbox backends: a run relies on what the last probe found."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from pathlib import Path

from msgspec import structs

from appliance.domain import toolchain_cache
from appliance.domain.execution import BackendStatus, BaseMeans, Isolation, RunRequest, RunResult
from appliance.errors import ApplianceError, SandboxUnavailable
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage import base_copy
from plugins._shared.stage.validation import check_request

_NO_REMEDY = "see the log of the service"


class ProbedBackend(ABC):
    """Implements the protocols of appliance.spi.sandbox except `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._probing = asyncio.Lock()
        self._status: BackendStatus | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    async def probe(self) -> BackendStatus:
        """Run a program that reports its confinement, at each call, and judge the report."""
        async with self._probing:
            try:
                self._require_open()
                self._status = await self._probe()
            except ApplianceError as error:
                remedy = str(error.details.get("remedy", _NO_REMEDY))
                problem = error.message.removesuffix(f": {remedy}")
                self._status = BackendStatus(self._name, False, problem=problem, remedy=remedy)
        return self._status

    def check(self, request: RunRequest) -> None:
        check_request(request)

    def session_problem(self) -> str:
        return ""

    async def run(self, request: RunRequest) -> RunResult:
        return await self._checked_run(request, None)

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        return await self._checked_run(request, watcher)

    async def _checked_run(self, request: RunRequest, watcher: RunWatcher | None) -> RunResult:
        self.check(request)
        self._require_open()
        status = self._status or await self.probe()
        if status.isolation is None:
            raise SandboxUnavailable.with_remedy(status.problem, status.remedy)
        if request.base:
            return await self._run_on_base(request, status.isolation, watcher)
        return await self._run(request, status.isolation, watcher)

    async def _run_on_base(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None
    ) -> RunResult:
        """A run whose base is copied into its workspace."""
        async with base_copy.copied_base(request) as copied:
            result = await self._run(copied, isolation, watcher)
        return structs.replace(result, base=BaseMeans.COPY)

    def _require_open(self) -> None:
        if self._closed:
            raise SandboxUnavailable("the sandbox is shut down")

    @abstractmethod
    async def _probe(self) -> BackendStatus:
        """Raises ApplianceError with what is missing."""

    @abstractmethod
    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        """One run with the isolation that the probe found."""


def toolchain_cache_folder(context: PluginContext) -> Path | None:
    """The host's folder that runs see at toolchain_cache.INSIDE; None if there is none.

    Runs see files that are added to it later. It is created in the appliance's own data
    directory, but not in another's that is only inspected.
    """
    folder = context.toolchain_cache_dir
    if folder is None:
        folder = context.data_dir / toolchain_cache.DIRECTORY
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o755, exist_ok=True)
    return folder if folder.is_dir() else None
