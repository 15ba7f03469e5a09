"""What a sandbox prewarms for its next job, by the program that is expected."""

import functools
import marshal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import resources
from typing import Any

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared.stage import bytecode
from plugins._shared.stage.job import program_environment
from plugins._shared.stage.rlimits import startup_rlimits

NODE_PRELOAD_PATH = "/etc/sandbox/prewarmed_node.cjs"
"""Where the file `node_preload_script` has to lie inside: worker threads of Node load it too."""

_FOLDER = "/tmp/.start"  # noqa: S108 - the sandbox's own
_PROGRAM = "program.pyc"
_MISSING_PROGRAM = "/workspace/.waits"


class PrewarmKind(StrEnum):
    """PYTHON, NODE: that interpreter is prewarmed; ANY: a process that executes any program.

    Each can run programs of the other kinds as well, only not as fast.
    """

    PYTHON = "python"
    NODE = "node"
    ANY = "any"


class _Recipe(Struct, frozen=True):
    """How a process is prewarmed.

    It can continue as a program whose command is one of `programs` (with `only_files`: if a file
    follows), and whose environment is the default one in the variables whose names begin with
    `read_at_start`.
    """

    argv: tuple[str, ...]
    programs: tuple[str, ...]
    read_at_start: tuple[str, ...]
    env: Mapping[str, str] = {}
    only_files: bool = False


# What the loader and the C library, or most interpreters, read only as a program starts.
_READ_BY_MOST = ("LC_", "LD_", "MALLOC_", "GLIBC_", "PATH", "HOME", "LANG", "LOCPATH", "TZ")
_INTERPRETERS = {
    PrewarmKind.PYTHON: _Recipe(
        argv=("python", f"{_FOLDER}/{_PROGRAM}"),
        programs=("python", "python3"),
        read_at_start=(*_READ_BY_MOST, "PYTHON"),
        env={"PYTHONPATH": _FOLDER},
    ),
    PrewarmKind.NODE: _Recipe(
        argv=("node", "--require", NODE_PRELOAD_PATH, _MISSING_PROGRAM),
        programs=("node",),
        read_at_start=(*_READ_BY_MOST, "NODE", "UV_", "OPENSSL", "SSL_", "ICU_"),
        only_files=True,
    ),
}
_ANY_PROGRAM = _Recipe(argv=(), programs=(), read_at_start=())


def prewarm_kind_for(argv: Sequence[str]) -> PrewarmKind:
    """The kind that runs this command line fastest."""
    kinds = (kind for kind, recipe in _INTERPRETERS.items() if argv[0] in recipe.programs)
    return next(kinds, PrewarmKind.ANY)


def encode_prewarm_request(kind: PrewarmKind, toolchains: int = 0) -> bytes:
    """The bytes before the job that make the init process prewarm this kind.

    Raises SandboxUnavailable if the installation is incomplete.
    """
    recipe = _INTERPRETERS.get(kind, _ANY_PROGRAM)
    env = program_environment(toolchains)
    files: dict[str, bytes] = {}
    if kind is PrewarmKind.PYTHON:
        interpreter = bytecode.module_pyc("plugins._shared.stage.prewarmed_interpreter")
        files = {"sitecustomize.pyc": interpreter, _PROGRAM: b""}
    request: dict[str, Any] = {
        "prewarm_server": bytecode.module_code("plugins._shared.stage.prewarm_server"),
        "landlock": bytecode.module_code("plugins._shared.landlock"),
        "rlimits": startup_rlimits(),
        "argv": recipe.argv,
        "programs": recipe.programs,
        "only_files": recipe.only_files,
        "env": {**env, **recipe.env},
        "default_env": env,
        "read_at_start": recipe.read_at_start,
        "files": files,
    }
    return marshal.dumps(request)


@functools.cache
def node_preload_script() -> bytes:
    """The content of the file NODE_PRELOAD_PATH. Raises SandboxUnavailable."""
    try:
        return resources.files("plugins._shared.stage").joinpath("prewarmed_node.cjs").read_bytes()
    except OSError as error:
        raise SandboxUnavailable(
            "the file prewarmed_node.cjs is missing: reinstall the product"
        ) from error
