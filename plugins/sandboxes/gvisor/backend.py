"""The gVisor sandbox backend: probes which platform works, then runs programs on it."""

import asyncio
import contextlib
import shutil
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
from appliance.spi.cancellation import run_deferring_cancellation
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.guest.results import build_result
from plugins._shared.guest.run import GuestRun
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import choose_interpreter
from plugins._shared.stage.backend import ProbedBackend, toolchain_cache_folder
from plugins.sandboxes.gvisor import kernel_differences, probe, runsc
from plugins.sandboxes.gvisor.bundle import BundleRoot
from plugins.sandboxes.gvisor.process_tree import ProcessTree
from plugins.sandboxes.gvisor.spawner import LauncherHandle, Spawner, launcher_command

_NAME = "gvisor"
_UNPROVEN = Isolation(_NAME, IsolationLevel.GVISOR, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_TRIAL_S = 60.0
# A /dev/kvm that can be opened may still start nothing, forever; one that works is quick.
_KVM_TRIAL_S = 4.0
_CLOSE_S = 30.0
_MAX_LOG_LINE = 300

# Programs that print the version of a language that the host may have.
_HOST_LANGUAGES = {
    "sh": ("sh", "-c", "p=$(readlink -f /bin/sh); p=${p:-sh}; echo ${p##*/}"),
    "node": ("node", "-p", "process.versions.node"),
}


class GVisor(ProbedBackend):
    """Runs each program on a kernel in user space, by runsc.

    `trial_s` is how long a platform may take when it is tried. Without runsc the probe costs
    nothing.
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
            await asyncio.gather(*(run.finished.wait() for run in self._runs))
        spawner, self._spawner = self._spawner, None
        if spawner is not None:
            await asyncio.to_thread(spawner.stop)

    async def _probe(self) -> BackendStatus:
        spawner = await self._prepare_spawner()
        platform, outcome = await self._first_working_platform(spawner)
        facts = probe.parse_facts(outcome.stdout)
        isolation = probe.proven_isolation(
            facts, _NAME, spawner.cgroups, platform, spawner.root.names
        )
        self._platforms = (platform,)
        languages = {"python": facts.python}
        languages |= await self._host_languages(spawner)
        return BackendStatus(_NAME, True, isolation, languages, remedy=spawner.cgroups.remedy)

    async def _prepare_spawner(self) -> Spawner:
        """The spawner, made at the first call. Raises SandboxUnavailable."""
        self._require_open()
        if self._spawner is None:
            setting = str(self._context.settings.get("runsc", ""))
            env = self._context.host_env()
            program = await asyncio.to_thread(runsc.locate_runsc, setting, env)
            self._spawner = await asyncio.to_thread(self._create_spawner, program)
            self._platforms = program.platforms
        return self._spawner

    def _create_spawner(self, program: runsc.Runsc) -> Spawner:
        base = selection.selected_root(self._context)
        python = choose_interpreter(base, self._context.sandbox_python)
        toolchains = tuple(map(Path, self._context.settings.get("toolchains", ())))
        home = self._context.runtime_dir / _NAME
        try:
            if home.exists():  # an attempt that failed half-way
                shutil.rmtree(home)
            home.mkdir(mode=0o700, parents=True)
            cache = toolchain_cache_folder(self._context)
            root = BundleRoot(home / "root", python, base and base.path, toolchains, cache)
            command = launcher_command(home, python.bundled, self._context)
            return Spawner(home, program, root, command)
        except OSError as error:
            raise SandboxUnavailable.with_remedy(
                f"the server's runtime folder can't be used ({error.strerror})",
                "check that it exists, belongs to the server's user and has free space",
            ) from error

    async def _first_working_platform(self, spawner: Spawner) -> tuple[str, RunResult]:
        """The best platform that runs the probe, and its result."""
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        problems: list[str] = []
        for platform in self._platforms:
            try:
                trial_s = min(_KVM_TRIAL_S, self._trial_s) if platform == "kvm" else self._trial_s
                async with asyncio.timeout(trial_s):
                    outcome = await self._run_on(spawner, request, platform, _UNPROVEN)
            except TimeoutError:
                problems.append(f"{platform}: it started nothing in time")
            except ApplianceError as error:
                problems.append(f"{platform}: {error.message}")
            else:
                if outcome.ok:
                    return platform, outcome
                problems.append(f"{platform}: {_describe_failure(outcome)}")
        raise SandboxUnavailable.with_remedy(
            f"runsc exists but runs nothing here ({'; '.join(problems)})",
            "grant the server what the message asks for, or install a newer runsc",
        )

    async def _host_languages(self, spawner: Spawner) -> dict[str, str]:
        versions: dict[str, str] = {}
        for name, argv in _HOST_LANGUAGES.items():
            request = RunRequest(argv, limits=_PROBE_LIMITS)
            outcome = await self._run_on(spawner, request, self._platforms[0], _UNPROVEN)
            if outcome.ok:
                versions[name] = outcome.stdout.decode(errors="replace").strip()[:40]
        return versions

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        spawner = await self._prepare_spawner()
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
        starting = spawner.spawn(request.limits, platform)
        launcher, cancelled = await run_deferring_cancellation(starting)
        try:
            run, tree = _create_run(launcher, request, watcher)
            self._runs.add(run)
            try:
                if cancelled or self._closed:
                    await run_deferring_cancellation(run.close())
                    self._require_open()
                    raise asyncio.CancelledError
                job = kernel_differences.encode_gvisor_job(
                    request, cpu_accounted=launcher.cpu_accounted
                )
                await run.execute(job)
            finally:
                self._runs.discard(run)
            log_line = _last_log_line(tree.log.value(), launcher.folder)
        finally:
            spawner.release(launcher)
        outcome = build_result(
            run,
            isolation,
            lambda: SandboxUnavailable(f"gVisor's sandbox could not be set up ({log_line})"),
            out_of_memory=tree.out_of_memory,
            max_memory_bytes=tree.max_memory_bytes,
        )
        build_s = run.cpu_s if run.report.build is None else run.build_cpu_s
        return kernel_differences.correct_result(
            outcome,
            run.cpu_s if launcher.cpu_accounted else None,
            build_s if launcher.cpu_accounted else None,
        )


def _create_run(
    launcher: LauncherHandle, request: RunRequest, watcher: RunWatcher | None
) -> tuple[GuestRun, ProcessTree]:
    tree = ProcessTree(launcher, lambda: run.kill(EndReason.MEMORY))
    run = GuestRun(
        tree,
        launcher.source,
        launcher.sink,
        request,
        watcher,
        enforce_cpu_limit=launcher.cpu_accounted,
    )
    return run, tree


def _last_log_line(log: bytes, folder: Path) -> str:
    """The last line that the launcher or runsc wrote; `folder` is the run's."""
    text = log.decode(errors="replace")
    with contextlib.suppress(FileNotFoundError):
        text = (folder / "log").read_text(errors="replace") + text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_MAX_LOG_LINE] if lines else "runsc ended without a message"


def _describe_failure(outcome: RunResult) -> str:
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    number = outcome.signal if outcome.exit_code is None else outcome.exit_code
    return lines[-1][:_MAX_LOG_LINE] if lines else f"it ended with {outcome.reason} {number}"
