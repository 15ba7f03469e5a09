"""Runs untrusted code through the backend that this machine offers."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import structlog
from msgspec import structs

from appliance import telemetry
from appliance.config.settings import PlanSettings, SandboxSettings
from appliance.domain.execution import (
    BackendStatus,
    Limits,
    OutputStream,
    RunRequest,
    RunResult,
)
from appliance.errors import SandboxUnavailable
from appliance.sandbox import backend_selection, plan_limits
from appliance.sandbox.languages import detection
from appliance.sandbox.languages.detection import Trial
from appliance.sandbox.languages.toolchain_cache import Preparation
from appliance.sandbox.user_concurrency import Turns
from appliance.spi.sandbox import CheckingBackend, RunWatcher, SandboxBackend, WatchableBackend

_PROBE_S = 180.0
_START_S = 60.0
_LAST_PAUSE_S = 600.0

log = structlog.get_logger()


class SandboxRunner:
    """One for the whole box: it bounds how many runs there are at a time.

    Code is never run unconfined: where no backend is good enough, each run fails
    with SandboxUnavailable and the reason.
    """

    def __init__(
        self,
        backends: Mapping[str, SandboxBackend],
        settings: SandboxSettings,
        first_pause_s: float = 15.0,
        plans: Mapping[str, PlanSettings] | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        self._first_pause_s = first_pause_s
        self._backends = dict(backends)
        self._settings = settings
        self._plans = dict(plans or {})
        self._preparation = preparation
        self._turns = Turns()
        self._backend: SandboxBackend | None = None
        self._status = BackendStatus("none", False, problem="the sandbox was not started")
        self._slots = asyncio.Semaphore(settings.parallel_runs)
        self._retrying: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()

    @property
    def status(self) -> BackendStatus:
        """Of the chosen backend; or why there is none."""
        return self._status

    @property
    def tells_output(self) -> bool:
        """Whether a watcher hears of output while the program runs, not only at its end."""
        return isinstance(self._backend, WatchableBackend)

    @property
    def languages_known(self) -> bool:
        """Whether every language has been tried: until then `status` may name too few."""
        return self._trying is not None and self._trying.done()

    async def wait_for_start(self) -> None:
        """Until `start` has found out what this machine offers; a minute at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                await self._looked.wait()

    async def wait_for_languages(self) -> None:
        """Until every language has been tried, where there is a backend to try them with."""
        await self.wait_for_start()
        if self._trying is not None:
            await asyncio.wait({self._trying})

    async def start(self) -> None:
        """Probe the backends and choose one. Never raises: the outcome is in `status`.

        Where none is good enough they are probed again from time to time: what was in
        the way may have been a busy machine or something that an administrator repairs.
        """
        wanted = self._settings.backend
        if wanted != "auto" and wanted not in self._backends:
            known = ", ".join(sorted(self._backends)) or "none"
            self._status = backend_selection.none(
                f"the setting sandbox.backend names {wanted!r}, which is not installed",
                f"set it to auto or to one of: {known}",
            )
            self._looked.set()
            return
        names = (
            backend_selection.meant_by_auto(self._backends, self._settings)
            if wanted == "auto"
            else [wanted]
        )
        await self._look(names)
        self._looked.set()
        if self._backend is None and names:
            self._retrying = asyncio.create_task(self._look_again(names))

    def limits(self, plan: str = "") -> Limits:
        """What the settings allow one run, for a user of that plan."""
        return plan_limits.limits(self.settings(plan))

    def settings(self, plan: str = "") -> SandboxSettings:
        """[sandbox], with what the settings say of that plan in its place."""
        return plan_limits.in_force(self._settings, self._plans, plan)

    def of_user(self, user_id: int, plan: str) -> "UsersRunner":
        """The same sandbox with what that user may use of it."""
        return UsersRunner(self, user_id, plan)

    def check_ready(self) -> None:
        """Raises SandboxUnavailable, with the reason, where nothing can be run."""
        self._ready()

    def check(self, request: RunRequest) -> None:
        """Raises InvalidInput for what is known to be refused when its turn comes."""
        if isinstance(self._backend, CheckingBackend):
            self._backend.check(request)

    async def run(self, request: RunRequest, watcher: RunWatcher | None = None) -> RunResult:
        """One run, waiting for its turn.

        Raises SandboxUnavailable with the reason, and InvalidInput for a bad request.
        """
        self.check_ready()
        async with self._slots:
            # Gone, if the box was shut down while this run waited.
            result = await _run(self._ready(), request, watcher)
        telemetry.observe_sandbox_run(result.reason)
        return result

    async def run_of(
        self, user_id: int, plan: str, request: RunRequest, watcher: RunWatcher | None = None
    ) -> RunResult:
        """As `run`, once that user has fewer runs going on than the plan allows at once."""
        self.check_ready()
        async with self._turns.of(user_id, self.settings(plan).parallel_runs):
            return await self.run(request, watcher)

    async def close(self) -> None:
        """End every run and let go of the backends."""
        for task in (self._retrying, self._trying):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._backend = None
        self._status = backend_selection.none("the sandbox is shut down", "")
        for backend in self._backends.values():
            await backend.close()

    def _ready(self) -> SandboxBackend:
        if self._backend is None:
            reason = ". ".join(filter(None, (self._status.problem, self._status.remedy)))
            raise SandboxUnavailable(f"code can't be run on this machine: {reason}")
        return self._backend

    async def _look(self, names: Sequence[str]) -> None:
        probed = [await self._probe(name) for name in names]
        self._status = backend_selection.strongest(probed, self._settings.require)
        self._backend = self._backends[self._status.name] if self._status.available else None
        if self._backend is not None:
            self._trying = asyncio.create_task(self._try_languages())

    async def _try_languages(self) -> None:
        """Beside the first runs: a compiler takes seconds, and most runs need none."""
        try:
            tried = detection.tried(
                self._trial,
                self.limits(),
                self._status.languages,
                self._settings.languages,
                self._preparation,
            )
            async for trial in tried:
                self._note(trial)
        except Exception:
            # A plugin's own fault: what was found so far works.
            log.exception("sandbox.languages_failed", backend=self._status.name)
        log.info("sandbox.languages", found=self._status.languages)

    def _note(self, trial: Trial) -> None:
        status = self._status
        if trial.problem:
            failed = {**status.languages_failed, trial.name: trial.problem}
            self._status = structs.replace(status, languages_failed=failed)
        else:
            found = {**status.languages, trial.name: trial.version}
            self._status = structs.replace(status, languages=found)

    async def _trial(self, request: RunRequest) -> RunResult:
        """A run of the box's own, which counts as nobody's."""
        async with self._slots:
            return await self._ready().run(request)

    async def _look_again(self, names: Sequence[str]) -> None:
        pause = self._first_pause_s
        while self._backend is None:
            await asyncio.sleep(pause)
            await self._look(names)
            pause = min(2 * pause, _LAST_PAUSE_S)

    async def _probe(self, name: str) -> BackendStatus:
        try:
            async with asyncio.timeout(_PROBE_S):
                status = await self._backends[name].probe()
        except TimeoutError:
            status = BackendStatus(name, False, problem=f"no answer within {_PROBE_S:.0f} s")
        except Exception:
            # A plugin's own fault must not keep the box from starting.
            log.exception("sandbox.probe_failed", backend=name)
            status = BackendStatus(name, False, problem=f"the backend {name} failed; see the log")
        log.info("sandbox.probed", backend=name, available=status.available, problem=status.problem)
        return status


class UsersRunner:
    """The box's sandbox as one user may use it."""

    def __init__(self, runner: SandboxRunner, user_id: int, plan: str) -> None:
        self._runner = runner
        self._user_id = user_id
        self._plan = plan

    @property
    def status(self) -> BackendStatus:
        return self._runner.status

    def limits(self) -> Limits:
        return self._runner.limits(self._plan)

    async def run(self, request: RunRequest) -> RunResult:
        """One run, waiting for its turn; raises as SandboxRunner.run does."""
        return await self._runner.run_of(self._user_id, self._plan, request)


async def _run(
    backend: SandboxBackend, request: RunRequest, watcher: RunWatcher | None
) -> RunResult:
    if watcher is None:
        return await backend.run(request)
    if isinstance(backend, WatchableBackend):
        return await backend.run_watched(request, watcher)
    watcher.started()
    result = await backend.run(request)
    watcher.output(OutputStream.STDOUT, result.stdout)
    watcher.output(OutputStream.STDERR, result.stderr)
    return result
