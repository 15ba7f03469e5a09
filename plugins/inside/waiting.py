"""The stage's side of an interpreter that waits for its program (see `starter.py`).

Comes with the word to wait. The interpreter is a child like any program's, under the same
Landlock; its limits are set once it is known what they are, before it is let go on.
"""

# As in the stage: little is imported.
# ruff: noqa: PTH102, PTH118, PTH123, S108
import marshal
import os
import resource
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Start = Callable[[dict[str, Any], list[int]], int]

_FOLDER = "/tmp/.start"
_PROGRAM = "program.pyc"
_CONTINUED = ("python", "python3")
_SIGKILL = 9
_PROCESS_CLOCK = 2

# What an interpreter, its loader or the C library read only as they start.
_AT_START = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_")
_AT_START_TOO = ("PATH", "HOME", "LANG", "LANGUAGE", "LOCPATH", "TZ", "TZDIR")


class Waiting:
    """Made before the job is known; then `ready` once, then `go_on` once."""

    def __init__(self, head: "dict[str, Any]", streams: list[int], start: "Start") -> None:
        self._env: dict[str, str] = head["env"]
        self._streams = streams
        self._start = start
        self._lay_out(head["starter"])
        order, self._order = os.pipe()
        self._told, told = os.pipe()
        env = self._env | {"PYTHONPATH": _FOLDER}
        argv = [_CONTINUED[0], os.path.join(_FOLDER, _PROGRAM)]
        self._child = start(head | {"argv": argv, "env": env}, [*streams, order, told])
        os.close(order)
        os.close(told)

    def ready(self) -> bool:
        """Whether it waits now; it may take the time that an interpreter takes to start."""
        said = os.read(self._told, 1)
        os.close(self._told)
        return bool(said)

    def go_on(self, job: "dict[str, Any]") -> tuple[int, float]:
        """The process of the job's program, and the processor time used before it, in s."""
        try:
            if self._fits(job):
                return self._child, self._continue(job)
        except (ProcessLookupError, BrokenPipeError):  # something killed it while it waited
            pass
        os.close(self._order)
        os.kill(self._child, _SIGKILL)
        os.waitpid(self._child, 0)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self._start(job, self._streams), used.ru_utime + used.ru_stime

    def _lay_out(self, starter: bytes) -> None:
        os.mkdir(_FOLDER, 0o700)
        for name, content in (("sitecustomize.pyc", starter), (_PROGRAM, b"")):
            with open(os.path.join(_FOLDER, name), "xb") as file:
                file.write(content)

    def _fits(self, job: "dict[str, Any]") -> bool:
        env: dict[str, str] = job["env"]
        return job["argv"][0] in _CONTINUED and not any(
            env.get(name) != self._env.get(name)
            for name in {*env, *self._env}
            if name in _AT_START_TOO or name.startswith(_AT_START)
        )

    def _continue(self, job: "dict[str, Any]") -> float:
        for name, soft, hard in job["rlimits"]:
            resource.prlimit(self._child, name, (soft, hard))
        used = time.clock_gettime(~self._child << 3 | _PROCESS_CLOCK)
        order = memoryview(marshal.dumps({"argv": job["argv"], "env": job["env"]}))
        while order:
            order = order[os.write(self._order, order) :]
        os.close(self._order)
        return used
