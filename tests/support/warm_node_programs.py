"""Node programs and command lines that must print the same when prewarmed and when fresh."""

from appliance.domain.execution import SandboxFile
from tests.support.warm_programs import Case

_SHOW_ENVIRONMENT = """
const fs = require("fs");
const Module = require("module");
console.log(process.argv, process.execArgv, process.argv0, process.title, process.execPath);
console.log(process.env, process.cwd(), process.umask(), process.ppid, process.version);
console.log(Object.keys(process).sort(), process._preload_modules, process.features);
console.log(Object.getOwnPropertyNames(globalThis).sort());
console.log(module.id, module.filename, module.loaded, module.children, module.paths);
console.log(require.main === module, process.mainModule === module, Object.keys(require.cache));
console.log(Object.keys(Module._pathCache), String(Module._findPath), Object.keys(Module));
console.log(new Error("trace").stack, fs.readdirSync("/tmp"), fs.readdirSync("."));
console.log(fs.existsSync("/proc/self/fd/3"), process.memoryUsage().rss > 0);
const { builtinModules } = Module;
console.log(builtinModules.length);
process.on("exit", (code) => console.log("bye", code));
"""

_WORKER = """
const { Worker, isMainThread, workerData } = require("worker_threads");
if (isMainThread) {
  new Worker(__filename, { workerData: 42 }).on("exit", (code) => console.log("ended", code));
} else {
  console.log(workerData, process.argv, process.execArgv, Object.keys(require.cache), module.id);
}
"""

_CHILDREN = """
const { execFileSync, fork } = require("child_process");
if (process.argv[2]) {
  console.log(process.argv, process.execArgv, process.env.NAME);
} else {
  console.log(String(execFileSync(process.execPath, ["-p", "1 + 1"])));
  fork(__filename, ["child"]).on("exit", (code) => console.log("ended", code));
}
"""

_ESM = """
import * as fs from "fs";
import { createRequire } from "module";
console.log(import.meta.url, process.argv, process.execArgv, new Error("trace").stack);
const require = createRequire(import.meta.url);
console.log(require("./answers.json"), Object.keys(require.cache));
await import("./package/inner.js");
throw new Error("the end");
"""

_SOURCES = {
    "everything.js": _SHOW_ENVIRONMENT,
    "worker.js": _WORKER,
    "children.js": _CHILDREN,
    "esm.mjs": _ESM,
    "answers.json": '{"answer": 42}',
    "package/package.json": '{"type": "module"}',
    "package/inner.js": "console.log(import.meta.url, new Error('inner').stack);\n",
    "folder/index.js": "console.log(__filename, process.argv);\n",
    "requires.js": "console.log(require('./folder'), require('./answers'), module.children);\n",
    "missing.js": "require('./nothing');\n",
    "syntax.js": "let x = ;\n",
    "throws.js": "function deep() { throw new TypeError('thrown'); }\ndeep();\n",
    "rejects.js": "Promise.reject(new Error('rejected'));\n",
    "reads.js": "process.stdin.on('data', (d) => console.log(d.length, String(d.slice(0, 9))));\n",
    "reads_all.js": "console.log(require('fs').readFileSync(0, 'utf8').length);\n",
    "exits.js": "process.exitCode = 7; setTimeout(() => console.log('late'), 20);\n",
    "kills.js": "process.kill(process.pid, 'SIGKILL'); setTimeout(() => {}, 9000);\n",
    "large.js": "process.stdout.write('x'.repeat(300000));\n",
    "test.js": "require('node:test')('adds', () => require('assert').equal(1 + 1, 2));\n",
    "zone.js": "console.log(String(new Date(0)), Intl.DateTimeFormat().resolvedOptions());\n",
    "extension": "console.log(__filename);\n",
}

NODE_FILES = tuple(SandboxFile(name, text.encode()) for name, text in _SOURCES.items())

_ENV = {"NAME": "b=c", "EMPTY": "", "UMLAUT": "ä"}

NODE_CASES = {
    "script": Case(("everything.js", "a", "-c"), env=_ENV),
    "script by a longer name": Case(("./folder/../everything.js",)),
    "script by its whole name": Case(("/workspace/everything.js",)),
    "script without its ending": Case(("everything",)),
    "script without any ending": Case(("extension",)),
    "worker threads": Case(("worker.js",)),
    "processes": Case(("children.js",), env=_ENV),
    "module": Case(("esm.mjs", "a")),
    "module by its package": Case(("package/inner.js",)),
    "folder": Case(("folder", "a")),
    "data": Case(("answers.json",)),
    "requires": Case(("requires.js",)),
    "missing module": Case(("missing.js",)),
    "missing script": Case(("nothing.js",)),
    "wrong syntax": Case(("syntax.js",)),
    "error": Case(("throws.js",)),
    "rejected promise": Case(("rejects.js",)),
    "input": Case(("reads.js",), "ä\n".encode() * 1000),
    "all of the input": Case(("reads_all.js",), b"x" * 200_000),
    "exit code": Case(("exits.js",)),
    "signal": Case(("kills.js",)),
    "much output": Case(("large.js",)),
    "times": Case(("zone.js",)),
    "times of another zone": Case(("zone.js",), env={"TZ": "Asia/Tokyo"}),
    "an expression": Case(("-p", "process.argv", "a")),
    "options": Case(("--stack-trace-limit=1", "throws.js")),
    "options in the environment": Case(("throws.js",), env={"NODE_OPTIONS": "--no-warnings"}),
    "standard input": Case((), b"console.log(process.argv)"),
    "no word": Case(("-",), b"console.log(__filename)"),
}  # fmt: skip
