"""A caller's program: validation, conversion to a sandbox run, and its result."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, structs

from appliance.domain.execution import (
    BackendStatus,
    BuildStep,
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


class Program(Struct, frozen=True):
    """A program to run: `files` of a `language`, or an `argv`.

    `code` is a main file that the caller did not name, before `files`. Otherwise `entry` is the
    main file, by default the first. `limits` lowers limits, by the field
    names of appliance.domain.execution.Limits; `build_limits` those of the compiler, of which
    only `wall_s` and `cpu_s` are its own.
    """

    language: str | None = None
    argv: tuple[str, ...] = ()
    code: bytes | None = None
    files: tuple[SandboxFile, ...] = ()
    entry: str | None = None
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    build_limits: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: tuple[str, ...] = ()


class ProgramResult(Struct, frozen=True):
    """`language` and `version` are None for an argv."""

    run: RunResult
    language: str | None = None
    version: str | None = None


class PreparedProgram(Struct, frozen=True):
    """A validated program."""

    request: RunRequest
    language: str | None = None
    version: str | None = None


def prepare_program(
    program: Program, allowed: Limits, max_files: int, status: BackendStatus
) -> PreparedProgram:
    """Validate a program and convert it to a run. Raises InvalidInput naming the field."""
    _check_counts(program, max_files)
    _check_args(program)
    files = _normalize_paths(program)
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
    request = _apply_recipe(recipe, program, request, allowed)
    return PreparedProgram(request, recipe.name, status.languages[recipe.name])


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
        "files": (len(program.files) + (program.code is not None), max_files),
        "args": (len(program.args), _MAX_ARGS),
        "artifacts": (len(program.artifacts), _MAX_ARTIFACTS),
    }
    for name, (count, limit) in counts.items():
        if count > limit:
            raise InvalidInput.at(name, f"has {count} entries; the limit is {limit}")


def _check_args(program: Program) -> None:
    for at, word in enumerate(program.args):
        if "\0" in word:
            raise InvalidInput.at(f"args[{at}]", "must not contain a NUL character")


def _normalize_paths(program: Program) -> tuple[SandboxFile, ...]:
    """The files with normal paths, the main one first. Raises InvalidInput naming the field."""
    named = [(f"files[{at}].path", file) for at, file in enumerate(program.files)]
    if program.code is not None:
        named.insert(0, ("code", _main_file(program.language, program.code)))
    paths = PathSet()
    return tuple(structs.replace(file, path=paths.add(at, file.path)) for at, file in named)


def _main_file(language: str | None, code: bytes) -> SandboxFile:
    if language is None:
        raise InvalidInput.at("code", "requires `language`")
    return SandboxFile(default_file_name(language, code), code)


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
    recipe: LanguageRecipe, program: Program, request: RunRequest, allowed: Limits
) -> RunRequest:
    if program.argv:
        raise InvalidInput.at("argv", "can't be combined with `language`; give one of them")
    if not request.files:
        raise InvalidInput.at("files", "is empty; send the program to run")
    paths = [file.path for file in request.files]
    if program.entry and program.code is not None:
        raise InvalidInput.at("entry", "can't be combined with `code`; put the code into `files`")
    entry = program.entry or paths[0]
    if entry not in paths:
        raise InvalidInput.at("entry", f"{entry[:200]!r} is not one of the files")
    memory_bytes = request.limits.memory_bytes
    commands = recipes.make_commands(recipe, entry, request.files, program.args, memory_bytes)
    request = structs.replace(request, argv=commands.run)
    if commands.build is None:
        return request
    limits = lower_limits(allowed, program.build_limits)
    build = BuildStep(commands.build, limits.wall_s, limits.cpu_s)
    return structs.replace(request, build=build)
