"""Creates sandboxes, keeps track of those that are alive, and releases their user ids."""

import asyncio
import time
from collections.abc import Callable, Iterator

from appliance.domain.execution import EndReason, Limits, RunRequest
from appliance.spi.cancellation import run_deferring_cancellation
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage.job import encode_job
from plugins._shared.stage.prewarm_setup import PrewarmKind, encode_prewarm_request
from plugins.sandboxes.bubblewrap.runs.run import Run
from plugins.sandboxes.bubblewrap.runs.spawner import SandboxPipes, Spawner

# The limits that are applied when a sandbox starts; the others come with the job.
_STARTUP_LIMITS = (
    "memory_bytes",
    "processes",
    "workspace_bytes",
    "workspace_files",
    "tmp_bytes",
    "cpus",
)


class Sandbox:
    """One sandbox and the user id that it holds. Serves one run."""

    def __init__(
        self,
        pipes: SandboxPipes,
        run: Run,
        limits: Limits,
        uid: int | None,
        factory: "SandboxFactory",
    ) -> None:
        self.created_at = time.monotonic()
        self.pipes = pipes
        self.run = run
        self.limits = limits
        self._uid = uid
        self._factory = factory

    @property
    def is_idle(self) -> bool:
        return self.run.is_idle

    async def fit_limits(self, limits: Limits) -> bool:
        """Change its limits before the run; False if that failed and it keeps the old ones."""
        if same_startup_limits(limits, self.limits):
            return True
        return await self._factory.set_limits(self, limits)

    async def execute(self, request: RunRequest, watcher: RunWatcher | None) -> None:
        """Execute its one run. Raises SandboxUnavailable if it does not start or end in time."""
        try:
            await self.run.execute(request, watcher, self._factory.encode_job(request))
        finally:
            self._factory.release(self.run, self._uid)

    async def discard(self) -> None:
        """End it without a run. Raises SandboxUnavailable if it does not end in time."""
        try:
            _, cancelled = await run_deferring_cancellation(self.run.close())
        finally:
            self._factory.release(self.run, self._uid)
        if cancelled:
            raise asyncio.CancelledError


class SandboxFactory:
    """Creates the sandboxes of one backend and knows those that are alive."""

    def __init__(self, spawner: Spawner, toolchains: int) -> None:
        self._spawner = spawner
        self._toolchains = toolchains
        self._runs: set[Run] = set()

    async def create(
        self, limits: Limits, on_exit: Callable[[], None] | None = None, base: str = ""
    ) -> Sandbox:
        """Start a sandbox that waits for its job, above this base. Raises SandboxUnavailable."""
        uid = self._spawner.user_ids.acquire()
        try:
            pipes = await self._spawner.spawn(limits, uid, base)
        except BaseException:
            self._spawner.user_ids.release(uid)
            raise
        run = Run(pipes, on_exit)
        self._runs.add(run)
        return Sandbox(pipes, run, limits, uid, self)

    async def create_prewarmed(
        self, limits: Limits, kind: PrewarmKind, on_exit: Callable[[], None] | None = None
    ) -> Sandbox:
        """Start a sandbox in which an interpreter of this kind waits. Raises SandboxUnavailable."""
        sandbox = await self.create(limits, on_exit)
        try:
            await sandbox.run.prewarm(encode_prewarm_request(kind, self._toolchains))
        except BaseException:
            await sandbox.discard()
            raise
        return sandbox

    async def set_limits(self, sandbox: Sandbox, limits: Limits) -> bool:
        """Return whether the sandbox has these limits now."""
        if changed := await self._spawner.set_limits(sandbox.pipes, limits):
            sandbox.limits = limits
        return changed

    def encode_job(self, request: RunRequest) -> Iterator[bytes]:
        return encode_job(
            request,
            own_user=self._spawner.user_ids.own_user,
            toolchains=self._toolchains,
            watch_memory=not self._spawner.capabilities.counts_memory,
        )

    def release(self, run: Run, uid: int | None) -> None:
        """Forget a run that has ended, and release its user id."""
        self._runs.discard(run)
        self._spawner.user_ids.release(uid)

    def kill_all(self, reason: EndReason) -> list[Run]:
        """Start to kill all runs, and return them."""
        for run in self._runs:
            run.kill(reason)
        return list(self._runs)


def same_startup_limits(one: Limits, other: Limits) -> bool:
    """Whether a sandbox started with one of them serves a run with the other."""
    return all(getattr(one, name) == getattr(other, name) for name in _STARTUP_LIMITS)
