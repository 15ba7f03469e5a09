"""A caller's program, and the sandbox run that it becomes."""

import secrets
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, structs

from appliance.domain.execution import (
    MIB,
    BackendStatus,
    Limits,
    RunRequest,
    RunResult,
    SandboxFile,
)
from appliance.domain.paths import PathSet
from appliance.errors import InvalidInput
from appliance.sandbox.languages import recipes
from appliance.sandbox.languages.recipes import Recipe

_MAX_ARGS = 256
_MAX_ARTIFACTS = 32
# What the compiler said comes back as one artifact more, beside the caller's own.
_LOG_BYTES = 2 * 65536 + 64
# Below these nothing could even begin.
_LEAST: Mapping[str, float] = {
    "wall_s": 0.1,
    "cpu_s": 0.1,
    "memory_bytes": 16 * MIB,
    "workspace_bytes": 4096,
    "workspace_files": 16,
    "tmp_bytes": 4096,
    "cpus": 0.01,
    "output_kept_bytes": 0,
    "artifact_bytes": 0,
    "artifact_files": 0,
}


class Program(Struct, frozen=True):
    """What a caller wants to be run: `language` with `files`, or `argv` as it is.

    `entry` names the main file, else it is the first. `limits` hold those that are to be
    lower than the box's, by the names of appliance.domain.execution.Limits.
    """

    language: str | None = None
    argv: tuple[str, ...] = ()
    files: tuple[SandboxFile, ...] = ()
    entry: str | None = None
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: tuple[str, ...] = ()


class BuildReport(Struct, frozen=True):
    """How compiling ended, and the start of what the compiler said."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class ProgramResult(Struct, frozen=True):
    """`language` and `version` are those used, None for an argv; `build` None: nothing to build."""

    run: RunResult
    language: str | None = None
    version: str | None = None
    build: BuildReport | None = None


class Prepared(Struct, frozen=True):
    """A program that was found in order. `log` is the file that tells of its build, if any."""

    request: RunRequest
    language: str | None = None
    version: str | None = None
    log: str | None = None

    def result(self, run: RunResult) -> ProgramResult:
        """The caller's result, without what the box itself put into the run."""
        if self.log is None:
            return ProgramResult(run, self.language, self.version)
        told = next((file.content for file in run.artifacts if file.path == self.log), None)
        own = tuple(file for file in run.artifacts if file.path != self.log)
        shown = structs.replace(run, artifacts=own)
        build = None if told is None else _build_report(told)
        return ProgramResult(shown, self.language, self.version, build)


def prepare(program: Program, allowed: Limits, most_files: int, status: BackendStatus) -> Prepared:
    """Raises InvalidInput, which names the field and what is possible."""
    _check_counts(program, most_files)
    files = _with_plain_paths(program.files)
    limits = lowered(allowed, program.limits)
    request = RunRequest(
        argv=program.argv,
        files=files,
        stdin=program.stdin,
        env=dict(program.environment),
        limits=limits,
        artifacts=program.artifacts,
    )
    if program.language is None:
        _check_argv(program)
        return Prepared(request)
    recipe = _recipe(program.language, status)
    return _by_recipe(recipe, program, request, status.languages[recipe.name])


def lowered(allowed: Limits, wanted: Mapping[str, float]) -> Limits:
    """The box's limits with the caller's in their place. Raises InvalidInput for a higher one."""
    for name, value in wanted.items():
        most, lowest = getattr(allowed, name), least(name)
        # Written so that NaN fails too.
        if not lowest <= value <= most:
            raise InvalidInput.at(
                f"limits.{name}",
                f"{_told(value)} is not from {lowest:.10g} to the {most:.10g} that this box allows",
            )
    changes: dict[str, Any] = dict(wanted)
    return structs.replace(allowed, **changes)


def least(name: str) -> float:
    """The lowest value that a limit can have."""
    return _LEAST.get(name, 1)


def _told(value: float) -> str:
    try:
        return f"{value:.10g}"
    except OverflowError:
        return "a number of hundreds of digits"


def _check_counts(program: Program, most_files: int) -> None:
    counted = {
        "files": (len(program.files), most_files),
        "args": (len(program.args), _MAX_ARGS),
        "artifacts": (len(program.artifacts), _MAX_ARTIFACTS),
    }
    for name, (count, most) in counted.items():
        if count > most:
            raise InvalidInput.at(name, f"are {count}; this box takes {most}")


def _with_plain_paths(files: tuple[SandboxFile, ...]) -> tuple[SandboxFile, ...]:
    paths = PathSet()
    return tuple(
        structs.replace(file, path=paths.add(f"files[{at}].path", file.path))
        for at, file in enumerate(files)
    )


def _check_argv(program: Program) -> None:
    if not program.argv:
        raise InvalidInput.at("language", "is missing: name one, or give argv")
    for name in ("entry", "args"):
        if getattr(program, name):
            raise InvalidInput.at(name, "belongs to a language; with argv, put it there")


def _recipe(language: str, status: BackendStatus) -> Recipe:
    recipe = recipes.find(language)
    if recipe is None or recipe.name not in status.languages:
        here = sorted(status.languages)
        raise InvalidInput(
            f"language: {language[:40]!r} can't be run here; choose from {', '.join(here)}",
            details={"field": "language", "allowed": here},
        )
    return recipe


def _by_recipe(recipe: Recipe, program: Program, request: RunRequest, version: str) -> Prepared:
    if program.argv:
        raise InvalidInput.at("argv", "and a language exclude each other; give one")
    if not request.files:
        raise InvalidInput.at("files", "are missing: send the program to run")
    paths = [file.path for file in request.files]
    entry = program.entry or paths[0]
    if entry not in paths:
        raise InvalidInput.at("entry", f"{entry[:200]!r} is none of the files")
    # "!" sorts before other names, so that it comes out before the limits are used up.
    log = f"!build-{secrets.token_hex(8)}"
    argv = recipes.command(recipe, entry, paths, program.args, log)
    if not recipe.build:
        return Prepared(structs.replace(request, argv=argv), recipe.name, version)
    request = structs.replace(
        request,
        argv=argv,
        artifacts=(*request.artifacts, log),
        limits=structs.replace(
            request.limits,
            artifact_bytes=request.limits.artifact_bytes + _LOG_BYTES,
            artifact_files=request.limits.artifact_files + 1,
        ),
    )
    return Prepared(request, recipe.name, version, log)


def _build_report(told: bytes) -> BuildReport | None:
    """What the build wrote; None if it can't be read: the program may have changed it."""
    first, _, said = told.partition(b"\n")
    try:
        status, size = (int(word) for word in first.split())
    except ValueError:
        return None
    return BuildReport(status & 0xFF, said[:size], said[size:])
