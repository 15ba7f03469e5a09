/*
 * The start of a Node that waits for its program; runs inside, before the program.
 *
 * Node is started with this to be loaded first (--require) and with a program that does not
 * exist. It waits here until its order comes. Then it gets the program's command line and
 * environment, and finds the program where it looks for the one that it was started with. So
 * the program is begun and ended by Node itself, with nothing of ours beneath it, as if it
 * had been named on the command line.
 *
 * Worker threads load this as well, since they inherit how Node was started.
 *
 * Descriptors: 3, where the order comes from (words that end in NUL: how many are of the
 * command line, these, then the environment); 4, where the waiting is told.
 */
"use strict";

const Module = require("module");

const ORDER = 3;
const TOLD = 4;

leaveNoTrace();
if (require("worker_threads").isMainThread) {
  const nowhere = process.argv[1];
  const { argv, env } = readOrder();
  setEnvironment(env);
  setCommandLine(argv);
  findProgram(nowhere, process.argv[1]);
}

function leaveNoTrace() {
  delete require.cache[__filename];
  for (const key of Object.keys(Module._pathCache)) {
    if (Module._pathCache[key] === __filename) {
      delete Module._pathCache[key];
    }
  }
  process._preload_modules.length = 0;
  process.execArgv.length = 0;
}

function readOrder() {
  const fs = require("fs");
  fs.writeSync(TOLD, ".");
  fs.closeSync(TOLD);
  const words = fs.readFileSync(ORDER, "utf8").split("\0");
  fs.closeSync(ORDER);
  if (words.pop() !== "" || words.length === 0) {
    process.reallyExit(0);
  }
  const end = 1 + Number(words[0]);
  return { argv: words.slice(1, end), env: words.slice(end) };
}

function setEnvironment(env) {
  for (const name of Object.keys(process.env)) {
    delete process.env[name];
  }
  for (const entry of env) {
    const at = entry.indexOf("=");
    process.env[entry.slice(0, at)] = entry.slice(at + 1);
  }
}

function setCommandLine(argv) {
  const path = require("path");
  const whole = [process.argv[0], path.resolve(argv[1]), ...argv.slice(2)];
  process.argv.splice(0, process.argv.length, ...whole);
}

/* A CommonJS program is looked for twice, any other once; older versions ask by its own name. */
function findProgram(nowhere, program) {
  const find = Module._findPath;
  let left = 2;
  Module._findPath = function (request, paths, isMain) {
    left -= 1;
    if (request !== nowhere || left === 0) {
      Module._findPath = find;
    }
    return find.call(this, request === nowhere ? program : request, paths, isMain);
  };
}
