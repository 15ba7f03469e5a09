"""The sandboxes of a backend that wait for their runs, and how a run comes by one."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from appliance.domain.execution import (
    Isolation,
    IsolationLevel,
    RunRequest,
    RunResult,
)
from appliance.errors import ApplianceError
from plugins._shared.stage import prewarm_setup
from plugins._shared.stage.prewarm_setup import Readiness
from plugins.sandboxes.bubblewrap.pool import node_equivalence
from plugins.sandboxes.bubblewrap.pool.default_limits import usual_limits
from plugins.sandboxes.bubblewrap.pool.pool import Pool
from plugins.sandboxes.bubblewrap.results import result
from plugins.sandboxes.bubblewrap.runs.sandboxes import Sandbox, Sandboxes

_NOT_TOLD = Isolation("bubblewrap", IsolationLevel.NAMESPACES, ())

log = logging.getLogger(__name__)


class Warmth:
    """`active` gives the number of runs; `moved` is to be called when one began or ended."""

    def __init__(
        self, sandboxes: Sandboxes, settings: Mapping[str, Any], active: Callable[[], int]
    ) -> None:
        self._sandboxes = sandboxes
        self._usual = usual_limits(settings)
        self._node_works: bool | None = False
        self._pool = Pool(
            settings.get("warm", 0), self._make, active, _at_once(settings.get("parallel_runs", 1))
        )
        self.moved = self._pool.moved
        self.close = self._pool.close

    def start(self, at_most: int, *, with_node: bool) -> None:
        """Begin to have some wait, never more than that; `with_node`: a Node is there."""
        if self._node_works is False and with_node:
            self._node_works = None  # not known yet
        self._pool.start(at_most)

    def waiting(self, kind: Readiness = Readiness.PYTHON) -> int:
        """How many wait with that ready."""
        return self._pool.waiting(kind)

    async def take(self, request: RunRequest) -> Sandbox | None:
        """One that waited, with that request's limits, if there is one. It is the caller's."""
        kind = prewarm_setup.fitting(request.argv)
        if kind is Readiness.NODE and self._node_works is False:
            kind = Readiness.ANY
        taken = self._pool.take(kind)
        if taken is None:
            return None
        _, sandbox = taken
        try:
            fits = await sandbox.fit(request.limits)
        except BaseException:
            await sandbox.end()
            raise
        if not fits:
            self._pool.put_back(*taken)
        return sandbox if fits else None

    async def _make(self, kind: Readiness) -> Sandbox:
        if kind is Readiness.NODE and not await self._node_waits_well():
            kind = Readiness.ANY
        return await self._sandboxes.make_ready(self._usual, kind, self._pool.moved)

    async def _node_waits_well(self) -> bool:
        if self._node_works is None:
            try:
                self._node_works = await node_equivalence.alike(self._anew, self._waited)
            except ApplianceError as error:
                log.warning("a Node that waits could not be tried: %s", error.message)
                self._node_works = False
            else:
                log.info("a Node that waits shows what a new one does: %s", self._node_works)
        return self._node_works

    async def _anew(self, request: RunRequest) -> RunResult:
        return await _played(await self._sandboxes.make(request.limits), request)

    async def _waited(self, request: RunRequest) -> RunResult:
        sandbox = await self._sandboxes.make_ready(request.limits, Readiness.NODE)
        return await _played(sandbox, request)


async def _played(sandbox: Sandbox, request: RunRequest) -> RunResult:
    await sandbox.play(request, None)
    return result(sandbox.run, _NOT_TOLD)


def _at_once(parallel_runs: int) -> int:
    """How many runs there may be, one that is being made ready included."""
    return max(1, min(parallel_runs, len(os.sched_getaffinity(0))))
