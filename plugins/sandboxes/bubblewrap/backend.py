"""The sandbox backend: probes this machine, keeps prewarmed sandboxes, runs programs."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from appliance.domain.execution import (
    BackendStatus,
    BaseMeans,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.domain.language_programs import ALL_LANGUAGES
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import choose_interpreter
from plugins._shared.stage import landlock_probe
from plugins._shared.stage.backend import ProbedBackend, toolchain_cache_folder
from plugins._shared.stage.base_copy import check_base
from plugins._shared.stage.prewarm_setup import PrewarmKind
from plugins.sandboxes.bubblewrap import probe
from plugins.sandboxes.bubblewrap.bwrap.hidden_programs import find_hidden
from plugins.sandboxes.bubblewrap.bwrap.layout import Sources
from plugins.sandboxes.bubblewrap.pool.warm_pool import WarmPool
from plugins.sandboxes.bubblewrap.results import build_result
from plugins.sandboxes.bubblewrap.runs.run import Run
from plugins.sandboxes.bubblewrap.runs.sandbox import SandboxFactory
from plugins.sandboxes.bubblewrap.runs.spawner import Spawner

log = logging.getLogger(__name__)

_NAME = "bubblewrap"
_UNKNOWN = Isolation(_NAME, IsolationLevel.NAMESPACES, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_CLOSE_S = 5.0

# Commands that print the version of a language, if the host has it.
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
        self._sandboxes = SandboxFactory(self._spawner, len(self._toolchains))
        self._warm_pool = WarmPool(self._sandboxes, context.settings, lambda: self._active)
        self._active = 0
        self._has_overlay = True  # until one can't be mounted
        self._started = False

    def count_idle(self, kind: PrewarmKind = PrewarmKind.PYTHON) -> int:
        """Number of idle sandboxes with that prewarmed."""
        return self._warm_pool.count_idle(kind)

    async def close(self) -> None:
        self._closed = True
        runs = self._sandboxes.kill_all(EndReason.CANCELLED)
        ending = asyncio.gather(self._warm_pool.close(), *(run.done.wait() for run in runs))
        # If the launcher does not answer, the remaining sandboxes end with it.
        await asyncio.wait({ending}, timeout=_CLOSE_S)
        await self._spawner.stop()
        await ending

    async def _probe(self) -> BackendStatus:
        if not self._started:
            await self._start()
        request = RunRequest(("python", "-c", probe.PROGRAM), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        if not outcome.ok:
            raise SandboxUnavailable(f"the sandbox's Python does not work: {_last_line(outcome)}")
        capabilities = self._spawner.capabilities
        isolation, facts = probe.verify_isolation(
            outcome.stdout, _NAME, capabilities, own_user=self._spawner.user_ids.own_user
        )
        isolation = await self._with_landlock(isolation)
        languages = {"python": facts.python} | await self._host_languages()
        # One slot stays free for runs that no prewarmed sandbox serves.
        self._warm_pool.start(self._spawner.max_parallel - 1, with_node="node" in languages)
        return BackendStatus(_NAME, True, isolation, languages, remedy=capabilities.remedy)

    async def _start(self) -> None:
        context = self._context
        root = selection.selected_root(context)
        python = await asyncio.to_thread(choose_interpreter, root, context.sandbox_python)
        enabled = context.settings.get("languages", (ALL_LANGUAGES,))
        folder = root and root.path
        sources = Sources(
            python.bundled,
            self._toolchains,
            folder,
            python.program,
            await asyncio.to_thread(toolchain_cache_folder, context),
            await asyncio.to_thread(find_hidden, folder, self._toolchains, enabled),
        )
        await self._spawner.start(sources, context.runtime_dir)
        self._started = True

    async def _with_landlock(self, isolation: Isolation) -> Isolation:
        request = RunRequest(("python", "-c", landlock_probe.PROGRAM), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        try:
            layers, degraded = landlock_probe.proven_layers(outcome.stdout)
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
        versions: dict[str, str] = {}
        for name, argv in _HOST_LANGUAGES.items():
            outcome = await self._run(RunRequest(argv, limits=_PROBE_LIMITS), _UNKNOWN)
            if outcome.ok:
                versions[name] = outcome.stdout.decode(errors="replace").strip()[:40]
        return versions

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        self._require_open()
        with self._counted():
            run = await self._execute(request, watcher)
        return build_result(run, isolation, request.build)

    @contextmanager
    def _counted(self) -> Generator[None, None, None]:
        """Tell the pool that a run is active."""
        self._active += 1
        self._warm_pool.notify()
        try:
            yield
        finally:
            self._active -= 1
            self._warm_pool.notify()

    async def _run_on_base(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None
    ) -> RunResult:
        """By an overlay mount; if that can't be made, the base is copied."""
        self._require_open()
        with self._counted():
            run = await self._execute_on_overlay(request, watcher)
        if run is None:
            return await super()._run_on_base(request, isolation, watcher)
        result = build_result(run, isolation, request.build)
        return msgspec.structs.replace(result, base=BaseMeans.OVERLAY)

    async def _execute_on_overlay(
        self, request: RunRequest, watcher: RunWatcher | None
    ) -> Run | None:
        """None if nothing was run, since the overlay can't be mounted."""
        if not self._has_overlay or self._spawner.capabilities.no_namespaces:
            return None
        await asyncio.to_thread(check_base, request.base)
        try:
            sandbox = await self._sandboxes.create(request.limits, base=request.base)
        except SandboxUnavailable as error:
            log.warning("the base of a run is copied, it can't be mounted: %s", error.message)
            return None
        await sandbox.execute(request, watcher)
        run = sandbox.run
        if run.never_started and not run.tree.lost_reason:
            reason = run.log.value().decode(errors="replace").strip()
            log.warning("bases of runs are copied, bwrap mounts no overlays here: %s", reason)
            self._has_overlay = False
            return None
        return run

    async def _execute(self, request: RunRequest, watcher: RunWatcher | None) -> Run:
        prewarmed = await self._warm_pool.take(request)
        if prewarmed is not None:
            await prewarmed.execute(request, watcher)
            if not prewarmed.run.never_started:
                return prewarmed.run
        sandbox = await self._sandboxes.create(request.limits)
        await sandbox.execute(request, watcher)
        return sandbox.run


def _last_line(outcome: RunResult) -> str:
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {outcome.reason}"
