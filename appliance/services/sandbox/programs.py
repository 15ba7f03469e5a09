"""A caller's program: validation, conversion to a sandbox run, and its result."""

import secrets
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, structs

from appliance.domain.execution import (
    BackendStatus,
    Limits,
    RunRequest,
    RunResult,
    SandboxFile,
)
from appliance.domain.paths import PathSet
from appliance.domain.sandbox_limits import LIMIT_BY_FIELD
from appliance.errors import InvalidInput
from appliance.sandbox.languages import recipes
from appliance.sandbox.languages.entrypoints import main_file_name
from appliance.sandbox.languages.recipes import LanguageRecipe

_MAX_ARGS = 256
_MAX_ARTIFACTS = 32
# The output of the build comes back as one more artifact, beside the caller's own.
_BUILD_LOG_BYTES = 2 * 65536 + 64


class Program(Struct, frozen=True):
    """A program to run: `files` of a `language`, or an `argv`.

    `entry` is the main file, by default the first. `limits` lowers limits, by the field
    names of appliance.domain.execution.Limits.
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
    """Exit code and the start of the output of the build."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class ProgramResult(Struct, frozen=True):
    """`language` and `version` are None for an argv, `build` is None if nothing was built."""

    run: RunResult
    language: str | None = None
    version: str | None = None
    build: BuildReport | None = None


class PreparedProgram(Struct, frozen=True):
    """A validated program. `build_log` is the artifact with the build's output, if it is built."""

    request: RunRequest
    language: str | None = None
    version: str | None = None
    build_log: str | None = None

    def build_result(self, run: RunResult) -> ProgramResult:
        """The result for the caller: without the build log, which becomes `build`."""
        if self.build_log is None:
            return ProgramResult(run, self.language, self.version)
        log = next((file.content for file in run.artifacts if file.path == self.build_log), None)
        artifacts = tuple(file for file in run.artifacts if file.path != self.build_log)
        build = None if log is None else _parse_build_log(log)
        return ProgramResult(
            structs.replace(run, artifacts=artifacts), self.language, self.version, build
        )


def prepare_program(
    program: Program, allowed: Limits, max_files: int, status: BackendStatus
) -> PreparedProgram:
    """Validate a program and convert it to a run. Raises InvalidInput naming the field."""
    _check_counts(program, max_files)
    files = _normalize_paths(program.files)
    limits = lower_limits(allowed, program.limits)
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
        return PreparedProgram(request)
    recipe = _find_recipe(program.language, status)
    return _apply_recipe(recipe, program, request, status.languages[recipe.name])


def lower_limits(allowed: Limits, requested: Mapping[str, float]) -> Limits:
    """The allowed limits, lowered as requested. Raises InvalidInput for one out of range."""
    for name, value in requested.items():
        LIMIT_BY_FIELD[name].check(f"limits.{name}", value, getattr(allowed, name))
    changes: dict[str, Any] = dict(requested)
    return structs.replace(allowed, **changes)


def default_file_name(language: str, content: bytes) -> str:
    """The name of a main file whose sender gives none; "main" if the language is unknown."""
    recipe = recipes.find_recipe(language)
    return main_file_name(recipe.name, recipe.main_file, content) if recipe else "main"


def _check_counts(program: Program, max_files: int) -> None:
    counts = {
        "files": (len(program.files), max_files),
        "args": (len(program.args), _MAX_ARGS),
        "artifacts": (len(program.artifacts), _MAX_ARTIFACTS),
    }
    for name, (count, limit) in counts.items():
        if count > limit:
            raise InvalidInput.at(name, f"has {count} entries; the limit is {limit}")


def _normalize_paths(files: tuple[SandboxFile, ...]) -> tuple[SandboxFile, ...]:
    paths = PathSet()
    return tuple(
        structs.replace(file, path=paths.add(f"files[{at}].path", file.path))
        for at, file in enumerate(files)
    )


def _check_argv(program: Program) -> None:
    if not program.argv:
        raise InvalidInput.at("language", "is required, unless `argv` is given")
    for name in ("entry", "args"):
        if getattr(program, name):
            raise InvalidInput.at(name, "can't be combined with `argv`; put it into `argv`")


def _find_recipe(language: str, status: BackendStatus) -> LanguageRecipe:
    recipe = recipes.find_recipe(language)
    if recipe is None or recipe.name not in status.languages:
        available = sorted(status.languages)
        raise InvalidInput(
            f"language: {language[:40]!r} is not available; choose from {', '.join(available)}",
            details={"field": "language", "allowed": available},
        )
    return recipe


def _apply_recipe(
    recipe: LanguageRecipe, program: Program, request: RunRequest, version: str
) -> PreparedProgram:
    if program.argv:
        raise InvalidInput.at("argv", "can't be combined with `language`; give one of them")
    if not request.files:
        raise InvalidInput.at("files", "is empty; send the program to run")
    paths = [file.path for file in request.files]
    entry = program.entry or paths[0]
    if entry not in paths:
        raise InvalidInput.at("entry", f"{entry[:200]!r} is not one of the files")
    # "!" sorts before other names: the log is collected before the limits are used up.
    log = f"!build-{secrets.token_hex(8)}"
    argv = recipes.build_command(recipe, entry, paths, program.args, log)
    if not recipe.build:
        return PreparedProgram(structs.replace(request, argv=argv), recipe.name, version)
    request = structs.replace(
        request,
        argv=argv,
        artifacts=(*request.artifacts, log),
        limits=structs.replace(
            request.limits,
            artifact_bytes=request.limits.artifact_bytes + _BUILD_LOG_BYTES,
            artifact_files=request.limits.artifact_files + 1,
        ),
    )
    return PreparedProgram(request, recipe.name, version, log)


def _parse_build_log(content: bytes) -> BuildReport | None:
    """The report in a build log; None if it is malformed: the program can overwrite it."""
    header, _, output = content.partition(b"\n")
    try:
        status, size = (int(word) for word in header.split())
    except ValueError:
        return None
    return BuildReport(status & 0xFF, output[:size], output[size:])
