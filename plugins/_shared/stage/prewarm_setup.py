"""What a sandbox that waits for its run has ready for it, by the program to come."""

import functools
import marshal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import resources
from typing import Any

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared.stage import bytecode
from plugins._shared.stage.environment import environment
from plugins._shared.stage.rlimits import rlimits_at_start

NODE_STARTER = "/etc/sandbox/starter.cjs"
"""Where `node_starter` has to lie inside: a Node's worker threads load it as well."""

_FOLDER = "/tmp/.start"  # noqa: S108 - the sandbox's own
_PROGRAM = "program.pyc"
_NOWHERE = "/workspace/.waits"


class Readiness(StrEnum):
    """PYTHON and NODE: that interpreter waits; ANY: a process that becomes any program.

    Each serves programs of the other kinds as well, only not as fast.
    """

    PYTHON = "python"
    NODE = "node"
    ANY = "any"


class _Interpreter(Struct, frozen=True):
    """How it is made to wait.

    It can go on as a program that is started as one of `programs`, with `only_files` if a
    file follows, and whose environment does not differ in what begins with `read_at_start`.
    """

    argv: tuple[str, ...]
    programs: tuple[str, ...]
    read_at_start: tuple[str, ...]
    env: Mapping[str, str] = {}
    only_files: bool = False


# What the loader or the C library read only as a program starts, and what most others do.
_USUALLY = ("LC_", "LD_", "MALLOC_", "GLIBC_", "PATH", "HOME", "LANG", "LOCPATH", "TZ")
_INTERPRETERS = {
    Readiness.PYTHON: _Interpreter(
        argv=("python", f"{_FOLDER}/{_PROGRAM}"),
        programs=("python", "python3"),
        read_at_start=(*_USUALLY, "PYTHON"),
        env={"PYTHONPATH": _FOLDER},
    ),
    Readiness.NODE: _Interpreter(
        argv=("node", "--require", NODE_STARTER, _NOWHERE),
        programs=("node",),
        read_at_start=(*_USUALLY, "NODE", "UV_", "OPENSSL", "SSL_", "ICU_"),
        only_files=True,
    ),
}
_ANYTHING = _Interpreter(argv=(), programs=(), read_at_start=())


def fitting(argv: Sequence[str]) -> Readiness:
    """What serves a program fastest that is started so."""
    found = (each for each, how in _INTERPRETERS.items() if argv[0] in how.programs)
    return next(found, Readiness.ANY)


def word_to_wait(readiness: Readiness, toolchains: int = 0) -> bytes:
    """What comes before the job where the sandbox is to have that ready for it."""
    how = _INTERPRETERS.get(readiness, _ANYTHING)
    env = environment(toolchains)
    files: dict[str, bytes] = {}
    if readiness is Readiness.PYTHON:
        files = {"sitecustomize.pyc": bytecode.pyc("prewarmed_interpreter"), _PROGRAM: b""}
    head: dict[str, Any] = {
        "waiting": bytecode.code("prewarm_server"),
        "landlock": bytecode.code("landlock"),
        "rlimits": rlimits_at_start(),
        "argv": how.argv,
        "programs": how.programs,
        "only_files": how.only_files,
        "env": {**env, **how.env},
        "usual_env": env,
        "read_at_start": how.read_at_start,
        "files": files,
    }
    return marshal.dumps(head)


@functools.cache
def node_starter() -> bytes:
    """The content of the file NODE_STARTER. Raises SandboxUnavailable."""
    try:
        return resources.files("plugins._shared.stage").joinpath("prewarmed_node.cjs").read_bytes()
    except OSError as error:
        raise SandboxUnavailable("the product is not whole: install it anew") from error
