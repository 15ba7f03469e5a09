/*
 * Makes a Node wait for its program; runs inside the sandbox, before the program.
 *
 * Node is started with this file to be loaded first (--require) and with a program that does not
 * exist. It waits here until its order arrives. Then the process gets the program's command line
 * and environment, and the lookup of the missing program finds the real one. So Node itself begins
 * and ends the program, without frames of this product, as if it had been named on the command
 * line.
 *
 * Worker threads load this file as well, since they inherit Node's options.
 *
 * Descriptors: 3 is the pipe that the order comes from (see prewarm_server.py), 4 the pipe that
 * says that Node waits.
 */
"use strict";

const Module = require("module");

const ORDER_FD = 3;
const READY_FD = 4;

removeTraces();
if (require("worker_threads").isMainThread) {
  const missing = process.argv[1];
  const { argv, env } = readOrder();
  setEnvironment(env);
  setCommandLine(argv);
  redirectLookup(missing, process.argv[1]);
}

function removeTraces() {
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
  fs.writeSync(READY_FD, ".");
  fs.closeSync(READY_FD);
  const words = fs.readFileSync(ORDER_FD, "utf8").split("\0");
  fs.closeSync(ORDER_FD);
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
  const words = [process.argv[0], path.resolve(argv[1]), ...argv.slice(2)];
  process.argv.splice(0, process.argv.length, ...words);
}

/* Node looks up a CommonJS program twice, any other once; older versions by its own name. */
function redirectLookup(missing, program) {
  const find = Module._findPath;
  let lookupsLeft = 2;
  Module._findPath = function (request, paths, isMain) {
    lookupsLeft -= 1;
    if (request !== missing || lookupsLeft === 0) {
      Module._findPath = find;
    }
    return find.call(this, request === missing ? program : request, paths, isMain);
  };
}
