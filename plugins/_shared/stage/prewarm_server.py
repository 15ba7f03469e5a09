"""The init process's side of a prewarmed process: one that was started before its job is known.

Its code comes with the prewarm request (see prewarm_setup.py). The process is a child like any
program's, under the same Landlock rules; its resource limits are set once the job is known and
before it continues. Mostly it is an interpreter that waits in its own way
(prewarmed_interpreter.py, prewarmed_node.cjs); otherwise a copy of the init process that can
execute any program.

The order that it waits for is a series of words, each ended by NUL: the number of words of the
command line, these words, then the environment as NAME=VALUE.
"""

# As in the init process: little is imported.
# ruff: noqa: PTH102, PTH110, PTH118, PTH123, S108
import os
import resource
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    StartProgram = Callable[..., int]

_FOLDER = "/tmp/.start"
_WORKSPACE = "/workspace"
_ORDER_FD, _READY_FD = 3, 4
_SIGKILL = 9
_PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED, see clock_getcpuclockid(3)


class PrewarmedProcess:
    """Call `wait_ready` once, then `run` once."""

    def __init__(self, request: "dict[str, Any]", streams: list[int], start: "StartProgram"):
        self._request = request
        self._streams = streams
        self._start = start
        self._write_files(request["files"])
        order, self._order = os.pipe()
        self._ready, ready = os.pipe()
        wait = None if request["argv"] else _wait_for_job
        self._child = start(request, [*streams, order, ready], wait)
        os.close(order)
        os.close(ready)

    def wait_ready(self) -> bool:
        """Block until it waits for its order, as long as the interpreter takes to start.

        False if it ended instead.
        """
        ready = os.read(self._ready, 1)
        os.close(self._ready)
        return bool(ready)

    def run(self, job: "dict[str, Any]") -> tuple[int, float]:
        """The process id of the job's program, and the CPU seconds used before it began."""
        try:
            if self._can_run(job):
                return self._child, self._send_order(job)
        except (ProcessLookupError, BrokenPipeError):  # killed while it waited
            pass
        self.discard()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self._start(job, self._streams), used.ru_utime + used.ru_stime

    def discard(self) -> None:
        """End it without a job."""
        os.close(self._order)
        os.kill(self._child, _SIGKILL)
        os.waitpid(self._child, 0)

    def _write_files(self, files: dict[str, bytes]) -> None:
        if files:
            os.mkdir(_FOLDER, 0o700)
        for name, content in files.items():
            with open(os.path.join(_FOLDER, name), "xb") as file:
                file.write(content)

    def _can_run(self, job: "dict[str, Any]") -> bool:
        if not self._request["argv"]:
            return True
        argv: list[str] = job["argv"]
        if argv[0] not in self._request["programs"]:
            return False
        if self._request["only_files"] and not (
            len(argv) > 1 and not argv[1].startswith("-") and os.path.exists(argv[1])
        ):
            return False
        env, default = job["env"], self._request["default_env"]
        return not any(
            env.get(name) != default.get(name)
            for name in {*env, *default}
            if name.startswith(self._request["read_at_start"])
        )

    def _send_order(self, job: "dict[str, Any]") -> float:
        for name, soft, hard in job["rlimits"]:
            resource.prlimit(self._child, name, (soft, hard))
        used = time.clock_gettime(~self._child << 3 | _PROCESS_CPU_CLOCK)
        order = memoryview(_encode_order(job["argv"], job["env"]))
        while order:
            order = order[os.write(self._order, order) :]
        os.close(self._order)
        return used


def _encode_order(argv: list[str], env: dict[str, str]) -> bytes:
    words = [str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _wait_for_job() -> "dict[str, Any]":
    """In the process that waits without an interpreter: the job of its program."""
    os.write(_READY_FD, b".")
    os.close(_READY_FD)
    with open(_ORDER_FD, "rb") as source:
        words = source.read().split(b"\0")
    if len(words) == 1:
        os._exit(0)
    os.chdir(_WORKSPACE)
    end = 1 + int(words[0])
    pairs = (word.split(b"=", 1) for word in words[end:-1])
    return {"argv": words[1:end], "env": dict(pairs)}
