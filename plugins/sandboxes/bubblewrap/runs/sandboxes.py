"""Makes sandboxes and lets go of them: the process tree, its user id."""

import asyncio
import time
from collections.abc import Callable, Iterator

from appliance.domain.execution import EndReason, Limits, RunRequest
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage.job import job
from plugins._shared.stage.prewarm_setup import Readiness, word_to_wait
from plugins._shared.stage.shield import patiently
from plugins.sandboxes.bubblewrap.pool.default_limits import made_alike
from plugins.sandboxes.bubblewrap.runs.run import Run
from plugins.sandboxes.bubblewrap.runs.spawner import Child, Spawner


class Sandbox:
    """One sandbox, from its start to its end, with the user id that it holds meanwhile."""

    def __init__(
        self, child: Child, run: Run, limits: Limits, uid: int | None, owner: "Sandboxes"
    ) -> None:
        self.born = time.monotonic()
        self.child = child
        self.run = run
        self.limits = limits
        self._uid = uid
        self._owner = owner

    @property
    def waits(self) -> bool:
        return self.run.waits

    async def fit(self, limits: Limits) -> bool:
        """Give it these limits while it waits; False if it keeps those that it has."""
        return made_alike(limits, self.limits) or await self._owner.adapt(self, limits)

    async def play(self, request: RunRequest, watcher: RunWatcher | None) -> None:
        """Its one run. Raises SandboxUnavailable if it can't be set up or ended in time."""
        try:
            await self.run.play(request, watcher, self._owner.job(request))
        finally:
            self._owner.let_go(self.run, self._uid)

    async def end(self) -> None:
        """Instead of `play`. Raises SandboxUnavailable if the kernel does not let go of it."""
        try:
            _, cancelled = await patiently(self.run.close())
        finally:
            self._owner.let_go(self.run, self._uid)
        if cancelled:
            raise asyncio.CancelledError


class Sandboxes:
    """Those of one backend that are alive."""

    def __init__(self, spawner: Spawner, toolchains: int) -> None:
        self._spawner = spawner
        self._toolchains = toolchains
        self._runs: set[Run] = set()

    async def make(self, limits: Limits, at_exit: Callable[[], None] | None = None) -> Sandbox:
        """One that waits for its job. Raises SandboxUnavailable."""
        uid = self._spawner.users.take()
        try:
            child = await self._spawner.spawn(limits, uid)
        except BaseException:
            self._spawner.users.give_back(uid)
            raise
        run = Run(child, at_exit)
        self._runs.add(run)
        return Sandbox(child, run, limits, uid, self)

    async def make_ready(
        self, limits: Limits, readiness: Readiness, at_exit: Callable[[], None] | None = None
    ) -> Sandbox:
        """One with that ready for its program. Raises SandboxUnavailable."""
        sandbox = await self.make(limits, at_exit)
        try:
            await sandbox.run.prepare(word_to_wait(readiness, self._toolchains))
        except BaseException:
            await sandbox.end()
            raise
        return sandbox

    async def adapt(self, sandbox: Sandbox, limits: Limits) -> bool:
        """Whether it has the other limits now."""
        if done := await self._spawner.adapt(sandbox.child, limits):
            sandbox.limits = limits
        return done

    def job(self, request: RunRequest) -> Iterator[bytes]:
        return job(
            request,
            own_user=self._spawner.users.own_user,
            toolchains=self._toolchains,
            watch_memory=not self._spawner.fence.counts_memory,
        )

    def let_go(self, run: Run, uid: int | None) -> None:
        """It is over."""
        self._runs.discard(run)
        self._spawner.users.give_back(uid)

    def kill(self, reason: EndReason) -> list[Run]:
        """Begin to end all of them."""
        for run in self._runs:
            run.kill(reason)
        return list(self._runs)
