"""The sandbox backend: probes once, then runs."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.errors import ApplianceError, SandboxUnavailable
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins.inside import requests
from plugins.inside.job import job
from plugins.inside.patience import patiently
from plugins.sandboxes.bubblewrap import diagnosis, probe
from plugins.sandboxes.bubblewrap.results import result
from plugins.sandboxes.bubblewrap.run import Run
from plugins.sandboxes.bubblewrap.spawner import Spawner

_NAME = "bubblewrap"
_UNKNOWN = Isolation(_NAME, IsolationLevel.NAMESPACES, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_CLOSE_S = 10.0

# What tells the version of a language that the host may have.
_HOST_LANGUAGES = {
    "sh": ("sh", "-c", "basename $(readlink -f /bin/sh)"),
    "node": ("node", "-p", "process.versions.node"),
}


class Bubblewrap:
    """Implements appliance.spi.sandbox.SandboxBackend."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._spawner = Spawner()
        self._toolchains = tuple(map(Path, context.settings.get("toolchains", ())))
        self._probing = asyncio.Lock()
        self._status: BackendStatus | None = None
        self._runs: set[Run] = set()
        self._started = self._closed = False

    @property
    def name(self) -> str:
        return _NAME

    async def probe(self) -> BackendStatus:
        """Run something for real, anew at each call, and hold it against what it must be."""
        async with self._probing:
            try:
                self._status = await self._probe()
            except ApplianceError as error:
                remedy = str(error.details.get("remedy", "see the log of the service"))
                problem = error.message.removesuffix(f": {remedy}")
                self._status = BackendStatus(_NAME, False, problem=problem, remedy=remedy)
        return self._status

    async def run(self, request: RunRequest) -> RunResult:
        return await self._checked_run(request, None)

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        return await self._checked_run(request, watcher)

    async def close(self) -> None:
        self._closed = True
        for run in self._runs:
            run.kill(EndReason.CANCELLED)
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(run.over.wait() for run in self._runs))
        await asyncio.to_thread(self._spawner.stop)

    async def _probe(self) -> BackendStatus:
        if not self._started:
            python = await asyncio.to_thread(self._context.sandbox_python)
            await self._spawner.start(python, self._context.runtime_dir, self._toolchains)
            self._started = True
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        if not outcome.ok:
            raise SandboxUnavailable(f"the sandbox's Python does not work: {_last_line(outcome)}")
        fence = self._spawner.fence
        isolation, facts = probe.isolation(
            outcome.stdout, _NAME, fence, own_user=self._spawner.users.own_user
        )
        languages = {"python": facts.python} | await self._host_languages()
        return BackendStatus(_NAME, True, isolation, languages, remedy=fence.remedy)

    async def _host_languages(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, argv in _HOST_LANGUAGES.items():
            outcome = await self._run(RunRequest(argv, limits=_PROBE_LIMITS), _UNKNOWN)
            if outcome.ok:
                found[name] = outcome.stdout.decode(errors="replace").strip()[:40]
        return found

    async def _checked_run(self, request: RunRequest, watcher: RunWatcher | None) -> RunResult:
        requests.check(request)
        status = self._status or await self.probe()
        if status.isolation is None:
            raise diagnosis.unavailable(status.problem, status.remedy)
        return await self._run(request, status.isolation, watcher)

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        if self._closed:
            raise SandboxUnavailable("the sandbox is shut down")
        users, fence = self._spawner.users, self._spawner.fence
        uid = users.take()
        try:
            run = await self._spawn(request, uid, watcher)
            try:
                await run.play(self._job(request))
            finally:
                self._runs.discard(run)
                fence.give_up(run.group)
        finally:
            users.give_back(uid)
        return result(run, isolation)

    def _job(self, request: RunRequest) -> Iterator[bytes]:
        return job(
            request,
            own_user=self._spawner.users.own_user,
            toolchains=len(self._toolchains),
            watch_memory=not self._spawner.fence.counts_memory,
        )

    async def _spawn(self, request: RunRequest, uid: int | None, watcher: RunWatcher | None) -> Run:
        child, cancelled = await patiently(self._spawner.spawn(request.limits, uid))
        run = Run(child, request, watcher)
        if cancelled:
            await patiently(run.close())
            self._spawner.fence.give_up(run.group)
            raise asyncio.CancelledError
        self._runs.add(run)
        return run


def _last_line(outcome: RunResult) -> str:
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {outcome.reason}"
