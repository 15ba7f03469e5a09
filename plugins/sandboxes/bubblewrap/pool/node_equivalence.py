"""Whether a Node that waited shows a program what a new one does.

How it is made to wait (see starter.cjs) leans on what Node does before its program, which is
promised nowhere. So a version of it is believed only once it has run this both ways.
"""

from collections.abc import Awaitable, Callable

from appliance.domain.execution import Limits, RunRequest, RunResult, SandboxFile

_LIMITS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)
_COMMON = """
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
_MODULE = """
import { argv, execArgv } from "process";
console.log(import.meta.url, argv, execArgv, new Error("trace").stack);
throw new Error("the end");
"""
_FILES = (
    SandboxFile("common.js", _COMMON.encode()),
    SandboxFile("module.mjs", _MODULE.encode()),
)
_PROGRAMS = (("node", "common.js", "one", "t w o"), ("node", "./module.mjs"))

Run = Callable[[RunRequest], Awaitable[RunResult]]


async def alike(anew: Run, waited: Run) -> bool:
    """Raises what the runs raise."""
    for argv in _PROGRAMS:
        request = RunRequest(argv, files=_FILES, env={"NAME": "value"}, limits=_LIMITS)
        if _seen(await anew(request)) != _seen(await waited(request)):
            return False
    return True


def _seen(result: RunResult) -> tuple[object, ...]:
    return result.reason, result.exit_code, result.stdout, result.stderr
