"""The backend's prewarmed sandboxes: with which limits they start, and which run gets one.

A prewarmed Node relies on what Node does before it loads its program (see prewarmed_node.cjs),
which is not documented and may change with its version. So Node is prewarmed only after test
programs have printed the same in a prewarmed and in a fresh one.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from appliance.domain.execution import (
    MIB,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
    SandboxFile,
)
from appliance.errors import ApplianceError
from plugins._shared.stage import prewarm_setup
from plugins._shared.stage.prewarm_setup import PrewarmKind
from plugins.sandboxes.bubblewrap.pool.idle_pool import IdlePool
from plugins.sandboxes.bubblewrap.results import build_result
from plugins.sandboxes.bubblewrap.runs.sandbox import Sandbox, SandboxFactory

_NO_ISOLATION = Isolation("bubblewrap", IsolationLevel.NAMESPACES, ())

_TEST_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_TEST_SCRIPT = """
const Module = require("module");
const { Worker, isMainThread } = require("worker_threads");
console.log(process.argv, process.execArgv, process.argv0, process.title, process.env);
console.log(process.cwd(), process._preload_modules, Object.keys(process).length);
console.log(module.id, module.parent, module.paths, require.main === module);
console.log(Object.keys(require.cache), Object.keys(Module._pathCache));
console.log(String(Module._findPath), new Error("trace").stack);
if (isMainThread) {
  const worker = new Worker(__filename);
  worker.on("exit", () => import("./module.mjs"));
}
"""
_TEST_MODULE = """
import { argv, execArgv } from "process";
console.log(import.meta.url, argv, execArgv, new Error("trace").stack);
throw new Error("the end");
"""
_TEST_FILES = (
    SandboxFile("common.js", _TEST_SCRIPT.encode()),
    SandboxFile("module.mjs", _TEST_MODULE.encode()),
)
_TEST_COMMANDS = (("node", "common.js", "one", "t w o"), ("node", "./module.mjs"))

log = logging.getLogger(__name__)


class WarmPool:
    """`active` returns the number of runs; call `notify` when one starts or ends."""

    def __init__(
        self, sandboxes: SandboxFactory, settings: Mapping[str, Any], active: Callable[[], int]
    ) -> None:
        self._sandboxes = sandboxes
        self._limits = default_limits(settings)
        self._node_works: bool | None = False
        self._pool = IdlePool(
            settings.get("warm", 0),
            self._create,
            active,
            _max_active(settings.get("parallel_runs", 1)),
        )
        self.notify = self._pool.notify
        self.close = self._pool.close

    def start(self, max_idle: int, *, with_node: bool) -> None:
        """Start to keep idle sandboxes, at most this many. `with_node`: Node is installed."""
        if self._node_works is False and with_node:
            self._node_works = None  # to be tested
        self._pool.start(max_idle)

    def count_idle(self, kind: PrewarmKind = PrewarmKind.PYTHON) -> int:
        return self._pool.count_idle(kind)

    async def take(self, request: RunRequest) -> Sandbox | None:
        """Return a prewarmed sandbox with the request's limits, now the caller's, or None."""
        kind = prewarm_setup.prewarm_kind_for(request.argv)
        if kind is PrewarmKind.NODE and self._node_works is False:
            kind = PrewarmKind.ANY
        entry = self._pool.take(kind)
        if entry is None:
            return None
        _, sandbox = entry
        try:
            fits = await sandbox.fit_limits(request.limits)
        except BaseException:
            await sandbox.discard()
            raise
        if not fits:
            self._pool.put_back(*entry)
        return sandbox if fits else None

    async def _create(self, kind: PrewarmKind) -> Sandbox:
        if kind is PrewarmKind.NODE and not await self._can_prewarm_node():
            kind = PrewarmKind.ANY
        return await self._sandboxes.create_prewarmed(self._limits, kind, self._pool.notify)

    async def _can_prewarm_node(self) -> bool:
        if self._node_works is None:
            try:
                self._node_works = await behaves_like_fresh(self._run_prewarmed, self._run_fresh)
            except ApplianceError as error:
                log.warning("Node is not prewarmed, the test failed: %s", error.message)
                self._node_works = False
            else:
                log.info("a prewarmed Node behaves like a fresh one: %s", self._node_works)
        return self._node_works

    async def _run_fresh(self, request: RunRequest) -> RunResult:
        return await _execute(await self._sandboxes.create(request.limits), request)

    async def _run_prewarmed(self, request: RunRequest) -> RunResult:
        sandbox = await self._sandboxes.create_prewarmed(request.limits, PrewarmKind.NODE)
        return await _execute(sandbox, request)


def default_limits(settings: Mapping[str, Any]) -> Limits:
    """The limits that a sandbox starts with, by the defaults of the section [sandbox]."""
    default = Limits()
    sizes = {
        name: settings[f"{name}_mib"] * MIB
        for name in ("memory", "workspace", "tmp")
        if f"{name}_mib" in settings
    }
    return Limits(
        memory_bytes=sizes.get("memory", default.memory_bytes),
        processes=settings.get("processes", default.processes),
        workspace_bytes=sizes.get("workspace", default.workspace_bytes),
        workspace_files=settings.get("workspace_files", default.workspace_files),
        tmp_bytes=sizes.get("tmp", default.tmp_bytes),
        cpus=settings.get("cpus", default.cpus),
    )


Runner = Callable[[RunRequest], Awaitable[RunResult]]


async def behaves_like_fresh(prewarmed: Runner, fresh: Runner) -> bool:
    """Whether Node programs print and return the same in both. Raises what the runs raise."""
    for argv in _TEST_COMMANDS:
        request = RunRequest(argv, files=_TEST_FILES, env={"NAME": "value"}, limits=_TEST_LIMITS)
        if _observable(await fresh(request)) != _observable(await prewarmed(request)):
            return False
    return True


def _observable(result: RunResult) -> tuple[object, ...]:
    return result.reason, result.exit_code, result.stdout, result.stderr


async def _execute(sandbox: Sandbox, request: RunRequest) -> RunResult:
    await sandbox.execute(request, None)
    return build_result(sandbox.run, _NO_ISOLATION)


def _max_active(parallel_runs: int) -> int:
    """The most runs at a time, including a sandbox that is being prewarmed."""
    return max(1, min(parallel_runs, len(os.sched_getaffinity(0))))
