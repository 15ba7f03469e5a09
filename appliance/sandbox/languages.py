"""Which languages this box can really run: each is tried by a small program."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence

import structlog
from msgspec import structs

from appliance.domain.execution import Limits, RunRequest, RunResult, SandboxFile
from appliance.errors import ApplianceError
from appliance.sandbox import recipes
from appliance.sandbox.recipes import Recipe

_EXPECTED = b"works\n"
_LOG = ".build.log"
EVERY = "*"
# At the start the machine is busy with other things; only the clock is given more.
_PATIENCE = 6
_MAX_VERSION = 40

log = structlog.get_logger()


Run = Callable[[RunRequest], Awaitable[RunResult]]


async def tried(
    run: Run, limits: Limits, known: Mapping[str, str], wanted: Collection[str]
) -> AsyncGenerator[tuple[str, str], None]:
    """Name and version of each language beyond the `known` ones whose sample program works.

    It is run within `limits`, as a caller's would be. `wanted` holds the names to try;
    EVERY stands for all.
    """
    asked = [
        each
        for each in recipes.RECIPES
        if each.name not in known and (EVERY in wanted or each.name in wanted)
    ]
    patient = structs.replace(limits, wall_s=limits.wall_s * _PATIENCE)
    for recipe in await _with_tools(run, patient, asked):
        version = await _version(run, patient, recipe)
        if version is not None:
            yield recipe.name, version


async def _with_tools(run: Run, limits: Limits, asked: Sequence[Recipe]) -> list[Recipe]:
    """Those whose compiler or interpreter is to be seen inside."""
    if not asked:
        return []
    lines = [f"command -v {each.tool} >/dev/null && echo {each.name}" for each in asked]
    result = await _attempt(run, limits, ("sh", "-c", "\n".join(lines)))
    found = set(result.stdout.decode(errors="replace").split()) if result else set[str]()
    return [recipe for recipe in asked if recipe.name in found]


async def _version(run: Run, limits: Limits, recipe: Recipe) -> str | None:
    """The version that it says it has, once the sample was built and run; None if it was not."""
    file = SandboxFile(recipe.main_file, recipe.sample.encode())
    argv = recipes.command(recipe, file.path, [file.path], (), _LOG)
    result = await _attempt(run, limits, argv, file)
    if result is None or not result.ok or result.stdout != _EXPECTED:
        ended = result.reason if result else "not run"
        said = result.stderr[-300:].decode(errors="replace") if result else ""
        log.warning("sandbox.language_failed", language=recipe.name, ended=ended, said=said)
        return None
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
