"""Which languages this box can really run: each is tried by a small program."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeGuard

import structlog
from msgspec import Struct, structs

from appliance.domain.execution import Limits, RunRequest, RunResult, SandboxFile
from appliance.errors import ApplianceError
from appliance.sandbox.languages import recipes
from appliance.sandbox.languages.recipes import Recipe
from appliance.sandbox.languages.toolchain_cache import Preparation

_EXPECTED = b"works\n"
_LOG = ".build.log"
EVERY = "*"
# At the start the machine is busy with other things; only the clock is given more.
_PATIENCE = 6
_MAX_VERSION = 40
# What takes longer for so small a program makes something anew in each run.
_SLOW_S = 3.0
_SAID = 200

log = structlog.get_logger()


Run = Callable[[RunRequest], Awaitable[RunResult]]


class Trial(Struct, frozen=True):
    """What came of trying a language: the version that it says it has, or why it fails."""

    name: str
    version: str = ""
    problem: str = ""


async def tried(
    run: Run,
    limits: Limits,
    known: Mapping[str, str],
    wanted: Collection[str],
    preparation: Preparation | None = None,
) -> AsyncGenerator[Trial, None]:
    """Each language beyond the `known` ones that is there, once its sample program was run.

    It is run within `limits`, as a caller's would be. `wanted` holds the names to try;
    EVERY stands for all. What is slow because it needs something ready-made gets it by
    `preparation`, after the others.
    """
    asked = [
        each
        for each in recipes.RECIPES
        if each.name not in known and (EVERY in wanted or each.name in wanted)
    ]
    patient = structs.replace(limits, wall_s=limits.wall_s * _PATIENCE)
    slow: list[tuple[Recipe, str]] = []
    for recipe in await _with_tools(run, patient, asked):
        ended = await _sample(run, patient, recipe)
        if preparation and recipe.prepare and _lacks_something(ended):
            version = await _version(run, patient, recipe)
            if not preparation.has(recipe, version):
                slow.append((recipe, version))
                continue
        yield await _judged(run, patient, recipe, ended)
    for recipe, version in slow:
        if preparation:
            await preparation.make(recipe, version, run)
        yield await _judged(run, patient, recipe, await _sample(run, patient, recipe))


async def _with_tools(run: Run, limits: Limits, asked: Sequence[Recipe]) -> list[Recipe]:
    """Those whose compiler or interpreter is to be seen inside."""
    if not asked:
        return []
    lines = [f"command -v {each.tool} >/dev/null && echo {each.name}" for each in asked]
    result = await _attempt(run, limits, ("sh", "-c", "\n".join(lines)))
    found = set(result.stdout.decode(errors="replace").split()) if result else set[str]()
    return [recipe for recipe in asked if recipe.name in found]


async def _sample(run: Run, limits: Limits, recipe: Recipe) -> RunResult | None:
    """How its sample program ended."""
    file = SandboxFile(recipe.main_file, recipe.sample.encode())
    argv = recipes.command(recipe, file.path, [file.path], (), _LOG)
    return await _attempt(run, limits, argv, file)


def _works(ended: RunResult | None) -> TypeGuard[RunResult]:
    return ended is not None and ended.ok and ended.stdout == _EXPECTED


def _lacks_something(ended: RunResult | None) -> bool:
    return not _works(ended) or ended.usage.wall_s > _SLOW_S


async def _judged(run: Run, limits: Limits, recipe: Recipe, ended: RunResult | None) -> Trial:
    if _works(ended):
        return Trial(recipe.name, version=await _version(run, limits, recipe))
    problem = "its sample program could not be run"
    if ended is not None:
        how = f"{ended.reason}, exit code {ended.exit_code}"
        said = ended.stderr.decode(errors="replace").strip().partition("\n")[0][:_SAID]
        problem = f"its sample program ended with {how}: {said or 'nothing was said'}"
    log.warning("sandbox.language_failed", language=recipe.name, problem=problem)
    return Trial(recipe.name, problem=problem)


async def _version(run: Run, limits: Limits, recipe: Recipe) -> str:
    told = await _attempt(run, limits, ("sh", "-c", recipe.version))
    words = told.stdout.decode(errors="replace").strip() if told and told.ok else ""
    return words[:_MAX_VERSION] or "unknown"


async def _attempt(
    run: Run, limits: Limits, argv: tuple[str, ...], *files: SandboxFile
) -> RunResult | None:
    try:
        return await run(RunRequest(argv, files=files, limits=limits))
    except ApplianceError as error:
        log.warning("sandbox.language_not_tried", reason=error.message)
        return None
