"""Runs untrusted code through the selected sandbox backend."""

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
from appliance.domain.language_programs import is_offered
from appliance.domain.tasks import Priority
from appliance.errors import SandboxUnavailable
from appliance.sandbox import backend_selection, plan_limits
from appliance.sandbox.languages import detection, offered
from appliance.sandbox.languages.detection import LanguageTrial
from appliance.sandbox.languages.toolchain_cache import ToolchainCache
from appliance.spi.fair_queue import Caps, FairQueue, FairSemaphore, QueueRequest, UserWeights
from appliance.spi.fair_queue.user_weights import user_key
from appliance.spi.sandbox import (
    CheckingBackend,
    RunWatcher,
    SandboxBackend,
    SessionBackend,
    WatchableBackend,
)

_PROBE_S = 180.0
_START_S = 60.0
_MAX_RETRY_S = 600.0
# Seconds of waiting that raise runs by one class.
_AGEING_S = 10.0

# The number of waiting runs is limited where they are accepted.
_OWN_RUN = QueueRequest("", bounded=False)

log = structlog.get_logger()


class SandboxRunner:
    """The server's only sandbox: selects a backend and limits the number of concurrent runs.

    Code is never run unconfined: without a suitable backend each run fails with
    SandboxUnavailable and the reason.
    """

    def __init__(
        self,
        backends: Mapping[str, SandboxBackend],
        settings: SandboxSettings,
        first_retry_s: float = 15.0,
        plans: Mapping[str, PlanSettings] | None = None,
        toolchain_cache: ToolchainCache | None = None,
        *,
        weights: UserWeights | None = None,
    ) -> None:
        self._first_retry_s = first_retry_s
        self._backends = dict(backends)
        self._settings = settings
        self._plans = dict(plans or {})
        self._toolchain_cache = toolchain_cache
        self._weights = weights or UserWeights({}, _no_username)
        self._backend: SandboxBackend | None = None
        self._status = BackendStatus("none", False, problem="the sandbox is being prepared")
        self._slots = FairSemaphore(
            FairQueue(
                "the sandbox queue",
                Caps(settings.parallel_runs),
                ageing_s=_AGEING_S,
                weight_of=self._weights.weight_of,
            )
        )
        self._selection_retry: asyncio.Task[None] | None = None
        self._detection: asyncio.Task[None] | None = None
        self._selection_done = asyncio.Event()

    @property
    def status(self) -> BackendStatus:
        """Status of the selected backend, or why there is none."""
        return self._status

    @property
    def is_known(self) -> bool:
        """Whether `start` has found out if code can be run."""
        return self._selection_done.is_set()

    @property
    def streams_output(self) -> bool:
        """Whether a watcher gets output while the program runs, not only at its end."""
        return isinstance(self._backend, WatchableBackend)

    @property
    def languages_detected(self) -> bool:
        """Whether detection has finished; until then `status` may list too few languages."""
        return self._detection is not None and self._detection.done()

    async def wait_for_start(self) -> None:
        """Wait until `start` has selected a backend, at most a minute."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                await self._selection_done.wait()

    async def wait_for_languages(self) -> None:
        """Wait until the languages are detected, if there is a backend."""
        await self.wait_for_start()
        if self._detection is not None:
            await asyncio.wait({self._detection})

    async def start(self) -> None:
        """Probe the backends and select one. Never raises: the outcome is in `status`.

        If none is suitable they are probed again from time to time: the machine may have been
        busy, or an administrator may remedy the problem.
        """
        setting = self._settings.backend
        if setting != "auto" and setting not in self._backends:
            installed = ", ".join(sorted(self._backends)) or "none"
            self._status = backend_selection.unavailable_status(
                f"the setting sandbox.backend names {setting!r}, which is not installed",
                f"set it to auto or to one of: {installed}",
            )
            self._selection_done.set()
            return
        names = (
            backend_selection.list_auto_backends(self._backends, self._settings)
            if setting == "auto"
            else [setting]
        )
        await self._select_backend(names)
        self._selection_done.set()
        if self._backend is None and names:
            self._selection_retry = asyncio.create_task(self._retry_selection(names))

    def limits(self, plan: str = "") -> Limits:
        """The limits of one run for users of that plan."""
        return plan_limits.limits_from_settings(self.settings_for_plan(plan))

    def settings_for_plan(self, plan: str = "") -> SandboxSettings:
        """[sandbox], with the values of that plan in place of its own."""
        return plan_limits.apply_plan(self._settings, self._plans, plan)

    def for_user(
        self, user_id: int, plan: str, priority: Priority = Priority.INTERACTIVE
    ) -> "UserSandbox":
        """The same sandbox with the limits of one user, for runs of that priority."""
        return UserSandbox(self, user_id, plan, priority)

    def check_ready(self) -> None:
        """Raise SandboxUnavailable, with the reason, if nothing can be run."""
        self._require_backend()

    def check_sessions(self) -> None:
        """Raise SandboxUnavailable, with the reason, if there can be no sessions."""
        backend = self._require_backend()
        if not isinstance(backend, SessionBackend):
            problem = f"the sandbox backend {backend.name} has no sessions; choose another one"
        else:
            problem = backend.session_problem()
        if problem:
            raise SandboxUnavailable(problem)

    def check_request(self, request: RunRequest) -> None:
        """Raise InvalidInput if the request would be refused: by its language or the backend."""
        offered.check_command(request, self._settings.languages)
        if isinstance(self._backend, CheckingBackend):
            self._backend.check(request)

    async def run(self, request: RunRequest, watcher: RunWatcher | None = None) -> RunResult:
        """One run for no user, after waiting for a free slot.

        Raises SandboxUnavailable with the reason, and InvalidInput for a bad request.
        """
        return await self._run_queued(_OWN_RUN, request, watcher)

    async def run_for_user(
        self,
        user_id: int,
        plan: str,
        request: RunRequest,
        watcher: RunWatcher | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
    ) -> RunResult:
        """As `run`, for a user who has at most as many active runs as the plan allows."""
        await self._weights.load(user_id)
        queued = QueueRequest(
            user_key(user_id),
            priority,
            user_limit=self.settings_for_plan(plan).parallel_runs,
            bounded=False,
        )
        return await self._run_queued(queued, request, watcher)

    async def close(self) -> None:
        """End every run and close the backends."""
        for task in (self._selection_retry, self._detection):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._backend = None
        self._status = backend_selection.unavailable_status("the sandbox is shut down", "")
        for backend in self._backends.values():
            await backend.close()

    async def _run_queued(
        self, queued: QueueRequest, request: RunRequest, watcher: RunWatcher | None
    ) -> RunResult:
        offered.check_command(request, self._settings.languages)
        self.check_ready()
        async with self._slots.hold(queued):
            # Checked again: the sandbox may have been closed while this run waited.
            result = await _run_on(self._require_backend(), request, watcher)
        telemetry.observe_sandbox_run(result.reason)
        return result

    def _require_backend(self) -> SandboxBackend:
        if self._backend is None:
            reason = ". ".join(filter(None, (self._status.problem, self._status.remedy)))
            raise SandboxUnavailable(f"code can't be run on this machine: {reason}")
        return self._backend

    async def _select_backend(self, names: Sequence[str]) -> None:
        probed = [await self._probe_backend(name) for name in names]
        status = backend_selection.select_strongest(probed, self._settings.require)
        enabled = self._settings.languages
        languages = {
            name: version for name, version in status.languages.items() if is_offered(name, enabled)
        }
        self._status = structs.replace(status, languages=languages)
        self._backend = self._backends[self._status.name] if self._status.available else None
        if self._backend is not None:
            self._detection = asyncio.create_task(self._detect_languages())

    async def _detect_languages(self) -> None:
        """Detect languages in the background: a compiler takes seconds, and most runs need none."""
        try:
            trials = detection.detect_languages(
                self._run_trial,
                self.limits(),
                self._status.languages,
                self._settings.languages,
                self._toolchain_cache,
            )
            async for trial in trials:
                self._record_trial(trial)
        except Exception:
            # A fault of the plugin; the languages detected so far work.
            log.exception("sandbox.languages_failed", backend=self._status.name)
        log.info("sandbox.languages", found=self._status.languages)

    def _record_trial(self, trial: LanguageTrial) -> None:
        status = self._status
        if trial.problem:
            failed = {**status.languages_failed, trial.name: trial.problem}
            self._status = structs.replace(status, languages_failed=failed)
        else:
            detected = {**status.languages, trial.name: trial.version}
            self._status = structs.replace(status, languages=detected)

    async def _run_trial(self, request: RunRequest) -> RunResult:
        """A run of the server's own, which counts for no user."""
        async with self._slots.hold(_OWN_RUN):
            return await self._require_backend().run(request)

    async def _retry_selection(self, names: Sequence[str]) -> None:
        pause_s = self._first_retry_s
        while self._backend is None:
            await asyncio.sleep(pause_s)
            await self._select_backend(names)
            pause_s = min(2 * pause_s, _MAX_RETRY_S)

    async def _probe_backend(self, name: str) -> BackendStatus:
        try:
            async with asyncio.timeout(_PROBE_S):
                status = await self._backends[name].probe()
        except TimeoutError:
            status = BackendStatus(name, False, problem=f"no answer within {_PROBE_S:.0f} s")
        except Exception:
            # A fault of the plugin must not keep the server from starting.
            log.exception("sandbox.probe_failed", backend=name)
            status = BackendStatus(name, False, problem=f"the backend {name} failed; see the log")
        log.info("sandbox.probed", backend=name, available=status.available, problem=status.problem)
        return status


class UserSandbox:
    """The sandbox with the limits of one user, for runs of one priority."""

    def __init__(self, runner: SandboxRunner, user_id: int, plan: str, priority: Priority) -> None:
        self._runner = runner
        self._user_id = user_id
        self._plan = plan
        self._priority = priority

    @property
    def status(self) -> BackendStatus:
        return self._runner.status

    def limits(self) -> Limits:
        return self._runner.limits(self._plan)

    async def run(self, request: RunRequest) -> RunResult:
        """One run, after waiting for a free slot; raises what SandboxRunner.run raises."""
        return await self._runner.run_for_user(
            self._user_id, self._plan, request, priority=self._priority
        )


async def _no_username(_user_id: int) -> str | None:
    return None


async def _run_on(
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
