"""The sandbox backend: probes once, then runs."""

import asyncio
from pathlib import Path

import msgspec

from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import interpreter
from plugins._shared.stage import landlock_probe, toolchain_cache
from plugins._shared.stage.backend import ProbedBackend
from plugins._shared.stage.prewarm_setup import Readiness
from plugins.sandboxes.bubblewrap import probe
from plugins.sandboxes.bubblewrap.bwrap.layout import Sources
from plugins.sandboxes.bubblewrap.pool.warm_pool import Warmth
from plugins.sandboxes.bubblewrap.results import result
from plugins.sandboxes.bubblewrap.runs.run import Run
from plugins.sandboxes.bubblewrap.runs.sandboxes import Sandboxes
from plugins.sandboxes.bubblewrap.runs.spawner import Spawner

_NAME = "bubblewrap"
_UNKNOWN = Isolation(_NAME, IsolationLevel.NAMESPACES, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_CLOSE_S = 5.0

# What tells the version of a language that the host may have.
_HOST_LANGUAGES = {
    "sh": ("sh", "-c", "p=$(readlink -f /bin/sh); p=${p:-sh}; echo ${p##*/}"),
    "node": ("node", "-p", "process.versions.node"),
}


class Bubblewrap(ProbedBackend):
    """Namespaces, seccomp, Landlock and control groups, by bwrap."""

    def __init__(self, context: PluginContext) -> None:
        super().__init__(_NAME)
        self._context = context
        self._spawner = Spawner(context)
        self._toolchains = tuple(map(Path, context.settings.get("toolchains", ())))
        self._sandboxes = Sandboxes(self._spawner, len(self._toolchains))
        self._warmth = Warmth(self._sandboxes, context.settings, lambda: self._active)
        self._active = 0
        self._started = False

    def waiting(self, kind: Readiness = Readiness.PYTHON) -> int:
        """How many sandboxes wait for a run with that ready."""
        return self._warmth.waiting(kind)

    async def close(self) -> None:
        self._closed = True
        runs = self._sandboxes.kill(EndReason.CANCELLED)
        ending = asyncio.gather(self._warmth.close(), *(run.over.wait() for run in runs))
        # A launcher that does not answer is not waited for: what is left ends with it.
        await asyncio.wait({ending}, timeout=_CLOSE_S)
        await self._spawner.stop()
        await ending

    async def _probe(self) -> BackendStatus:
        if not self._started:
            await self._start()
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        if not outcome.ok:
            raise SandboxUnavailable(f"the sandbox's Python does not work: {_last_line(outcome)}")
        fence = self._spawner.fence
        isolation, facts = probe.isolation(
            outcome.stdout, _NAME, fence, own_user=self._spawner.users.own_user
        )
        isolation = await self._with_landlock(isolation)
        languages = {"python": facts.python} | await self._host_languages()
        # One place stays for runs that none of those that wait can serve.
        self._warmth.start(self._spawner.parallel - 1, with_node="node" in languages)
        return BackendStatus(_NAME, True, isolation, languages, remedy=fence.remedy)

    async def _start(self) -> None:
        context = self._context
        root = selection.chosen(context)
        python = await asyncio.to_thread(interpreter, root, context.sandbox_python)
        sources = Sources(
            python.own,
            self._toolchains,
            root and root.path,
            python.program,
            await asyncio.to_thread(toolchain_cache.folder, context),
        )
        await self._spawner.start(sources, context.runtime_dir)
        self._started = True

    async def _with_landlock(self, isolation: Isolation) -> Isolation:
        request = RunRequest(("python", "-c", landlock_probe.PROGRAM), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        try:
            layers, degraded = landlock_probe.layers(outcome.stdout)
        except msgspec.DecodeError as error:
            raise SandboxUnavailable(
                f"the sandbox's Python does not work: {_last_line(outcome)}"
            ) from error
        return msgspec.structs.replace(
            isolation,
            layers=isolation.layers + layers,
            degraded=isolation.degraded + degraded,
        )

    async def _host_languages(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, argv in _HOST_LANGUAGES.items():
            outcome = await self._run(RunRequest(argv, limits=_PROBE_LIMITS), _UNKNOWN)
            if outcome.ok:
                found[name] = outcome.stdout.decode(errors="replace").strip()[:40]
        return found

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        self._require_open()
        self._active += 1
        self._warmth.moved()
        try:
            run = await self._play(request, watcher)
        finally:
            self._active -= 1
            self._warmth.moved()
        return result(run, isolation)

    async def _play(self, request: RunRequest, watcher: RunWatcher | None) -> Run:
        ready = await self._warmth.take(request)
        if ready is not None:
            await ready.play(request, watcher)
            if not ready.run.in_vain:
                return ready.run
        sandbox = await self._sandboxes.make(request.limits)
        await sandbox.play(request, watcher)
        return sandbox.run


def _last_line(outcome: RunResult) -> str:
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {outcome.reason}"
