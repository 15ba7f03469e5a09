"""What all backends do alike: the probe is remembered, and runs rely on what it found."""

import asyncio
from abc import ABC, abstractmethod

from appliance.domain.execution import BackendStatus, Isolation, RunRequest, RunResult
from appliance.errors import ApplianceError, SandboxUnavailable
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage import requests
from plugins._shared.stage.unavailable import told, unavailable


class ProbedBackend(ABC):
    """Implements all of appliance.spi.sandbox's protocols, but for `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._probing = asyncio.Lock()
        self._status: BackendStatus | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    async def probe(self) -> BackendStatus:
        """Run something for real, anew at each call, and hold it against what it must be."""
        async with self._probing:
            try:
                self._require_open()
                self._status = await self._probe()
            except ApplianceError as error:
                problem, remedy = told(error)
                self._status = BackendStatus(self._name, False, problem=problem, remedy=remedy)
        return self._status

    def check(self, request: RunRequest) -> None:
        requests.check(request)

    async def run(self, request: RunRequest) -> RunResult:
        return await self._checked_run(request, None)

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        return await self._checked_run(request, watcher)

    async def _checked_run(self, request: RunRequest, watcher: RunWatcher | None) -> RunResult:
        self.check(request)
        self._require_open()
        status = self._status or await self.probe()
        if status.isolation is None:
            raise unavailable(status.problem, status.remedy)
        return await self._run(request, status.isolation, watcher)

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
