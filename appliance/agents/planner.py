"""Decides how a task is done: who answers, in which form, how often, held against what."""

import secrets

from msgspec import Struct
from msgspec.structs import replace

from appliance.agents.code import languages, stubs
from appliance.agents.code.solution import Aim, is_test
from appliance.agents.prompting import personas
from appliance.agents.run.plan import Plan, Shape
from appliance.agents.verification import caller_tests, checks, examples
from appliance.agents.verification.checks import Checks
from appliance.config.settings import AgentSettings
from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelInfo
from appliance.domain.tasks import (
    CollapseStrategy,
    Priority,
    TaskRequest,
    TaskType,
    VerificationLevel,
)
from appliance.errors import InvalidInput, SandboxUnavailable

_SHAPES = {
    TaskType.CODE_GENERATION: Shape.CODE,
    TaskType.DEBUGGING: Shape.CODE,
    TaskType.REFACTORING: Shape.CODE,
    TaskType.TESTING: Shape.TESTS,
}
_FEWEST_COMPARED = 2
_WHERE_SPEED_IS_UNKNOWN = 4
_USUAL_ANSWER_TOKENS = 400
# How long a caller who waits, and one who does not, is kept for the first round.
_PATIENCE_S = {Priority.INTERACTIVE: 60.0, Priority.NORMAL: 180.0, Priority.BATCH: 600.0}


class Approach(Struct, frozen=True):
    """What follows from the request and the machine alone; the same at each attempt."""

    shape: Shape
    aim: Aim
    checks: Checks
    warnings: tuple[str, ...] = ()


class Budget(Struct, frozen=True):
    """Seconds until the deadline, tokens of the prompt, and tokens that the answer may have."""

    remaining_s: float
    prompt_tokens: int
    max_tokens: int


def approach(request: TaskRequest, sandbox: BackendStatus) -> Approach:
    """The form of the answer and what it is held against.

    Raises SandboxUnavailable, with the reason, where code would have to be run.
    """
    shape = _shape(request)
    language = languages.of_request(request)
    if shape is Shape.TEXT:
        return Approach(
            shape, Aim(language, request.files), Checks(VerificationLevel.NONE), _ignored(request)
        )
    request = _tests_recognised(request, shape)
    aim = _aim(request, shape, language)
    chosen = checks.choose(request, aim, sandbox.languages)
    if chosen.needs_sandbox and not sandbox.available:
        raise SandboxUnavailable(
            f"this task has to run code, and this machine can't confine it: {sandbox.problem}"
            + (f" ({sandbox.remedy})" if sandbox.remedy else "")
        )
    return Approach(shape, aim, chosen, _unusable(request, chosen))


def plan(
    request: TaskRequest,
    way: Approach,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> Plan:
    """Everything else that is fixed before the first token."""
    branches, reason = _branches(request, way, model, settings, budget)
    return Plan(
        persona=personas.for_task(request.persona, request.task_type),
        shape=way.shape,
        language=way.aim.language,
        provider=model.provider,
        model=model.name,
        branches=branches,
        branches_reason=reason,
        strategy=request.strategy,
        level=_reachable(way, branches, request.strategy),
        seed=secrets.randbits(31) if request.seed is None else request.seed,
        temperature=request.temperature,
        default_temperature=settings.temperature,
        max_tokens=budget.max_tokens,
        prompt_tokens=budget.prompt_tokens,
        context_tokens=model.context_tokens,
        repair_rounds=0 if way.shape is Shape.TEXT else settings.repair_rounds,
    )


def _shape(request: TaskRequest) -> Shape:
    """By the type of the task; a custom one is about code where tests were sent along."""
    if request.task_type is TaskType.CUSTOM and request.tests:
        return Shape.CODE
    return _SHAPES.get(request.task_type, Shape.TEXT)


def _tests_recognised(request: TaskRequest, shape: Shape) -> TaskRequest:
    """Tests among the caller's files are the caller's tests, where none were sent as such."""
    return request if shape is Shape.TESTS or request.tests else _with_tests_of_files(request)


def _with_tests_of_files(request: TaskRequest) -> TaskRequest:
    tests = tuple(file for file in request.files if is_test(file.path, file.content))
    return replace(request, tests=tests)


def _aim(request: TaskRequest, shape: Shape, language: str) -> Aim:
    stub = None
    if shape is Shape.CODE and language == languages.PYTHON:
        stub = stubs.find(request.prompt)
    found = examples.find(request.prompt, stub) if language == languages.PYTHON else []
    return Aim(
        language=language,
        files=request.files,
        main=None if shape is Shape.TESTS else _main(request),
        stub=stub,
        tested=stub.name if stub else examples.tested_name(found),
        writes_tests=shape is Shape.TESTS,
    )


def _main(request: TaskRequest) -> str | None:
    return caller_tests.imported_path(request.tests, request.files)


def _reachable(way: Approach, branches: int, strategy: CollapseStrategy) -> VerificationLevel:
    """Comparing candidates with one another needs several, and all of them."""
    compares = way.checks.level is VerificationLevel.GENERATED_TESTS and way.shape is Shape.CODE
    alone = branches < _FEWEST_COMPARED or strategy is CollapseStrategy.FIRST_SUCCESS
    return VerificationLevel.SYNTAX if compares and alone else way.checks.level


def _branches(
    request: TaskRequest,
    way: Approach,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> tuple[int, str]:
    """How many candidates, and why."""
    if request.branches is not None and request.branches < 1:
        raise InvalidInput.at("branches", "has to be at least 1")
    if way.shape is Shape.TEXT:
        return 1, "text is not verified, one answer is enough"
    if request.branches is not None:
        asked = min(request.branches, settings.max_branches)
        capped = f", at most {settings.max_branches} here" if asked < request.branches else ""
        return asked, f"{request.branches} asked for{capped}"
    if settings.branches:
        return min(settings.branches, settings.max_branches), "the administrator's setting"
    if way.checks.level is VerificationLevel.NONE:
        return 1, "nothing can be verified, so no candidate could be preferred"
    return _affordable(request, model, settings, budget)


def _affordable(
    request: TaskRequest,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> tuple[int, str]:
    """As many as the model writes in the time that the caller can be kept waiting."""
    most = max(1, min(settings.max_branches, model.max_parallel))
    speed = model.decode_tokens_per_second
    if not speed:
        return min(most, _WHERE_SPEED_IS_UNKNOWN), "the model's speed is not known yet"
    seconds = min(budget.remaining_s / 2, _PATIENCE_S[request.priority])
    tokens = min(budget.max_tokens, _USUAL_ANSWER_TOKENS)
    # Counted as if they were written one after the other: batching is a bonus.
    count = max(1, min(most, int(seconds * speed / tokens)))
    return count, f"{speed:.0f} tokens/s leave time for it within {seconds:.0f} s"


def _ignored(request: TaskRequest) -> tuple[str, ...]:
    return ("tests are not run for a task that answers with text",) if request.tests else ()


def _unusable(request: TaskRequest, chosen: Checks) -> tuple[str, ...]:
    if not request.tests or chosen.level is VerificationLevel.CALLER_TESTS:
        return ()
    names = ", ".join(test.path for test in request.tests[:5])
    return (f"none of the tests sent can be run here: {names}",)
