"""Detects usable languages by running a sample program of each in the sandbox."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeGuard

import structlog
from msgspec import Struct, structs

from appliance.domain.execution import BuildStep, Limits, RunRequest, RunResult, SandboxFile
from appliance.domain.language_programs import is_offered
from appliance.errors import ApplianceError
from appliance.sandbox.languages import recipes
from appliance.sandbox.languages.recipes import LanguageRecipe
from appliance.sandbox.languages.toolchain_cache import ToolchainCache

_EXPECTED = b"works\n"
# The machine is busy when the server starts, so the trials get more wall time.
_WALL_TIME_FACTOR = 6
_MAX_VERSION = 40
# A sample that takes longer builds something in each run that could be cached.
_SLOW_S = 3.0
_MAX_MESSAGE = 200

log = structlog.get_logger()


Run = Callable[[RunRequest], Awaitable[RunResult]]


class LanguageTrial(Struct, frozen=True):
    """Result of trying a language: its version, or why it does not work."""

    name: str
    version: str = ""
    problem: str = ""


async def detect_languages(
    run: Run,
    limits: Limits,
    detected: Mapping[str, str],
    enabled: Collection[str],
    toolchain_cache: ToolchainCache | None = None,
) -> AsyncGenerator[LanguageTrial, None]:
    """Try each enabled language that is installed and not `detected`; yields results one by one.

    Samples run within `limits`, as a caller's programs do, but with more wall time. `enabled`
    is the setting sandbox.languages. Languages whose toolchain cache has to be built first
    come last.
    """
    languages = [
        each
        for each in recipes.RECIPES
        if each.name not in detected and is_offered(each.name, enabled)
    ]
    limits = structs.replace(limits, wall_s=limits.wall_s * _WALL_TIME_FACTOR)
    uncached: list[tuple[LanguageRecipe, str]] = []
    for recipe in await _select_installed(run, limits, languages):
        sample = await _run_sample(run, limits, recipe)
        if toolchain_cache and recipe.cache_command and _needs_cache(sample):
            version = await _version(run, limits, recipe)
            if not toolchain_cache.has(recipe, version):
                uncached.append((recipe, version))
                continue
        yield await _make_trial(run, limits, recipe, sample)
    for recipe, version in uncached:
        if toolchain_cache:
            await toolchain_cache.build(recipe, version, run)
        yield await _make_trial(run, limits, recipe, await _run_sample(run, limits, recipe))


async def _select_installed(
    run: Run, limits: Limits, languages: Sequence[LanguageRecipe]
) -> list[LanguageRecipe]:
    """The languages whose compiler or interpreter is on the sandbox's PATH."""
    if not languages:
        return []
    lines = [f"command -v {each.tool} >/dev/null && echo {each.name}" for each in languages]
    result = await _try_run(run, RunRequest(("sh", "-c", "\n".join(lines)), limits=limits))
    found = set(result.stdout.decode(errors="replace").split()) if result else set[str]()
    return [recipe for recipe in languages if recipe.name in found]


async def _run_sample(run: Run, limits: Limits, recipe: LanguageRecipe) -> RunResult | None:
    """Result of the language's sample program, None if it could not be run."""
    file = SandboxFile(recipe.main_file, recipe.sample.encode())
    commands = recipes.make_commands(recipe, file.path, [file], (), limits.memory_bytes)
    build = BuildStep(commands.build, limits.wall_s, limits.cpu_s) if commands.build else None
    return await _try_run(run, RunRequest(commands.run, (file,), limits=limits, build=build))


def _works(sample: RunResult | None) -> TypeGuard[RunResult]:
    return sample is not None and sample.ok and sample.stdout == _EXPECTED


def _needs_cache(sample: RunResult | None) -> bool:
    if not _works(sample):
        return True
    build_s = sample.build.usage.wall_s if sample.build is not None else 0.0
    return build_s + sample.usage.wall_s > _SLOW_S


async def _make_trial(
    run: Run, limits: Limits, recipe: LanguageRecipe, sample: RunResult | None
) -> LanguageTrial:
    if _works(sample):
        return LanguageTrial(recipe.name, version=await _version(run, limits, recipe))
    problem = "its sample program could not be run"
    if sample is not None:
        how = f"{sample.reason}, exit code {sample.exit_code}"
        message = sample.stderr.decode(errors="replace").strip().partition("\n")[0][:_MAX_MESSAGE]
        problem = f"its sample program ended with {how}: {message or 'no error output'}"
    log.warning("sandbox.language_failed", language=recipe.name, problem=problem)
    return LanguageTrial(recipe.name, problem=problem)


async def _version(run: Run, limits: Limits, recipe: LanguageRecipe) -> str:
    result = await _try_run(run, RunRequest(("sh", "-c", recipe.version), limits=limits))
    version = result.stdout.decode(errors="replace").strip() if result and result.ok else ""
    return version[:_MAX_VERSION] or "unknown"


async def _try_run(run: Run, request: RunRequest) -> RunResult | None:
    try:
        return await run(request)
    except ApplianceError as error:
        log.warning("sandbox.language_not_tried", reason=error.message)
        return None
