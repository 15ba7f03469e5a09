"""The stage's side of a process that waits for its program.

Comes with the word to wait (see readiness.py). The process is a child like any program's,
under the same Landlock; its limits are set once it is known what they are, before it is let
go on. Mostly it is an interpreter, which waits in its own way (see starter.py, starter.cjs);
without one it is a copy of the stage that becomes any program.

The order that it waits for is a series of words that end in NUL: how many are of the command
line, these, and the environment.
"""

# As in the stage: little is imported.
# ruff: noqa: PTH102, PTH110, PTH118, PTH123, S108
import os
import resource
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Start = Callable[..., int]

_FOLDER = "/tmp/.start"
_WORKSPACE = "/workspace"
_ORDER, _TOLD = 3, 4
_SIGKILL = 9
_PROCESS_CLOCK = 2


class Waiting:
    """Made before the job is known; then `ready` once, then `go_on` once."""

    def __init__(self, head: "dict[str, Any]", streams: list[int], start: "Start") -> None:
        self._head = head
        self._streams = streams
        self._start = start
        self._lay_out(head["files"])
        order, self._order = os.pipe()
        self._told, told = os.pipe()
        stand_by = None if head["argv"] else _stand_by
        self._child = start(head, [*streams, order, told], stand_by)
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

    def _lay_out(self, files: dict[str, bytes]) -> None:
        if files:
            os.mkdir(_FOLDER, 0o700)
        for name, content in files.items():
            with open(os.path.join(_FOLDER, name), "xb") as file:
                file.write(content)

    def _fits(self, job: "dict[str, Any]") -> bool:
        if not self._head["argv"]:
            return True
        argv: list[str] = job["argv"]
        if argv[0] not in self._head["programs"]:
            return False
        if self._head["only_files"] and not (
            len(argv) > 1 and not argv[1].startswith("-") and os.path.exists(argv[1])
        ):
            return False
        env, usual = job["env"], self._head["usual_env"]
        return not any(
            env.get(name) != usual.get(name)
            for name in {*env, *usual}
            if name.startswith(self._head["read_at_start"])
        )

    def _continue(self, job: "dict[str, Any]") -> float:
        for name, soft, hard in job["rlimits"]:
            resource.prlimit(self._child, name, (soft, hard))
        used = time.clock_gettime(~self._child << 3 | _PROCESS_CLOCK)
        order = memoryview(_packed(job["argv"], job["env"]))
        while order:
            order = order[os.write(self._order, order) :]
        os.close(self._order)
        return used


def _packed(argv: list[str], env: dict[str, str]) -> bytes:
    words = [str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _stand_by() -> "dict[str, Any]":
    """In the process that waits without an interpreter: the job of its program."""
    os.write(_TOLD, b".")
    os.close(_TOLD)
    with open(_ORDER, "rb") as source:
        words = source.read().split(b"\0")
    if len(words) == 1:
        os._exit(0)
    os.chdir(_WORKSPACE)
    end = 1 + int(words[0])
    pairs = (word.split(b"=", 1) for word in words[end:-1])
    return {"argv": words[1:end], "env": dict(pairs)}
