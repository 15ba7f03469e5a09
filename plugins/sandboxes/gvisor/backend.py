"""The sandbox backend: finds out what works here, then runs."""

import asyncio
import shutil
from pathlib import Path

from msgspec import structs

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
from plugins._shared.guest.results import result
from plugins._shared.guest.run import GuestRun
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import interpreter
from plugins._shared.stage import toolchain_cache
from plugins._shared.stage.backend import ProbedBackend
from plugins._shared.stage.shield import patiently
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.gvisor import kernel_differences, probe, remedies, runsc
from plugins.sandboxes.gvisor.bundle import Root
from plugins.sandboxes.gvisor.process_tree import Tree
from plugins.sandboxes.gvisor.spawner import Spawner, Started, launcher

_NAME = "gvisor"
_UNKNOWN = Isolation(_NAME, IsolationLevel.GVISOR, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_TRIAL_S = 60.0
# Its device can be opened and still boot nothing, for ever; where it works it is quick.
_KVM_TRIAL_S = 4.0
_CLOSE_S = 30.0

# What tells the version of a language that the host may have.
_HOST_LANGUAGES = {
    "sh": ("sh", "-c", "p=$(readlink -f /bin/sh); p=${p:-sh}; echo ${p##*/}"),
    "node": ("node", "-p", "process.versions.node"),
}


class GVisor(ProbedBackend):
    """A kernel of its own in user space, by runsc; where there is none the probe costs nothing.

    `trial_s` is how long a platform may take to run something when it is tried.
    """

    def __init__(self, context: PluginContext, trial_s: float = _TRIAL_S) -> None:
        super().__init__(_NAME)
        self._trial_s = trial_s
        self._context = context
        self._spawner: Spawner | None = None
        self._platforms: tuple[str, ...] = ()
        self._runs: set[GuestRun] = set()

    async def close(self) -> None:
        self._closed = True
        for run in self._runs:
            run.kill(EndReason.CANCELLED)
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(run.over.wait() for run in self._runs))
        spawner, self._spawner = self._spawner, None
        if spawner is not None:
            await asyncio.to_thread(spawner.stop)

    async def _probe(self) -> BackendStatus:
        spawner = await self._started()
        platform, outcome = await self._first_platform(spawner)
        facts = probe.parsed(outcome.stdout)
        isolation = probe.isolation(facts, _NAME, spawner.fence, platform, spawner.root.names)
        self._platforms = (platform,)
        languages = {"python": facts.python}
        languages |= await self._host_languages(spawner)
        return BackendStatus(_NAME, True, isolation, languages, remedy=spawner.fence.remedy)

    async def _started(self) -> Spawner:
        """Whatever the runs need, laid out once. Raises SandboxUnavailable."""
        self._require_open()
        if self._spawner is None:
            setting = str(self._context.settings.get("runsc", ""))
            env = self._context.host_env()
            found = await asyncio.to_thread(runsc.locate, setting, env)
            self._spawner = await asyncio.to_thread(self._lay_out, found)
            self._platforms = found.platforms
        return self._spawner

    def _lay_out(self, found: runsc.Runsc) -> Spawner:
        chosen = selection.chosen(self._context)
        python = interpreter(chosen, self._context.sandbox_python)
        toolchains = tuple(map(Path, self._context.settings.get("toolchains", ())))
        home = self._context.runtime_dir / _NAME
        try:
            if home.exists():  # a layout that did not come to its end
                shutil.rmtree(home)
            home.mkdir(mode=0o700, parents=True)
            ready = toolchain_cache.folder(self._context)
            root = Root(home / "root", python, chosen and chosen.path, toolchains, ready)
            return Spawner(home, found, root, launcher(home, python.own, self._context))
        except OSError as error:
            raise unavailable(
                f"the service's runtime folder can't be used ({error.strerror})",
                "see that it exists, belongs to the service's user and has room",
            ) from error

    async def _first_platform(self, spawner: Spawner) -> tuple[str, RunResult]:
        """The best platform that runs something, and what it ran."""
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        problems: list[str] = []
        for platform in self._platforms:
            try:
                most = min(_KVM_TRIAL_S, self._trial_s) if platform == "kvm" else self._trial_s
                async with asyncio.timeout(most):
                    outcome = await self._run_on(spawner, request, platform, _UNKNOWN)
            except TimeoutError:
                problems.append(f"{platform}: it started nothing in time")
            except ApplianceError as error:
                problems.append(f"{platform}: {error.message}")
            else:
                if outcome.ok:
                    return platform, outcome
                problems.append(f"{platform}: {remedies.end_of(outcome)}")
        raise unavailable(
            f"runsc is there, but runs nothing here ({'; '.join(problems)})",
            "allow the service what its message asks for, or take a newer runsc",
        )

    async def _host_languages(self, spawner: Spawner) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, argv in _HOST_LANGUAGES.items():
            request = RunRequest(argv, limits=_PROBE_LIMITS)
            outcome = await self._run_on(spawner, request, self._platforms[0], _UNKNOWN)
            if outcome.ok:
                found[name] = outcome.stdout.decode(errors="replace").strip()[:40]
        return found

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        spawner = await self._started()
        return await self._run_on(spawner, request, self._platforms[0], isolation, watcher)

    async def _run_on(
        self,
        spawner: Spawner,
        request: RunRequest,
        platform: str,
        isolation: Isolation,
        watcher: RunWatcher | None = None,
    ) -> RunResult:
        self._require_open()
        started, cancelled = await patiently(spawner.spawn(request.limits, platform))
        try:
            run, tree = _adopt(started, request, watcher)
            self._runs.add(run)
            try:
                if cancelled or self._closed:
                    await patiently(run.close())
                    self._require_open()
                    raise asyncio.CancelledError
                await run.play(kernel_differences.job_for(request, counted=started.counted))
            finally:
                self._runs.discard(run)
            last_words = remedies.last(tree.log.value(), started.folder)
        finally:
            spawner.clear(started)
        outcome = result(
            run,
            isolation,
            lambda: SandboxUnavailable(f"gVisor's sandbox could not be set up ({last_words})"),
            starved=tree.starved,
            most_bytes=tree.most_bytes,
        )
        counted_s = run.cpu_s if started.counted else None
        return structs.replace(outcome, usage=kernel_differences.possible(outcome.usage, counted_s))


def _adopt(
    started: Started, request: RunRequest, watcher: RunWatcher | None
) -> tuple[GuestRun, Tree]:
    tree = Tree(started, lambda: run.kill(EndReason.MEMORY))
    run = GuestRun(tree, started.source, started.sink, request, watcher, hold_cpu=started.counted)
    return run, tree
