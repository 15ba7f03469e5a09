"""Plans a task: form of the answer, checks, model, number of candidates, persona.

`derive_spec` is repeated at each attempt; the result of `make_plan` is stored in the journal.
"""

import secrets

from msgspec import Struct
from msgspec.structs import replace

from appliance.agents.code import languages, stubs
from appliance.agents.code.solution import AnswerTarget, is_test
from appliance.agents.prompting import personas
from appliance.agents.run.execution_plan import ExecutionPlan, Shape
from appliance.agents.run.run_context import AnswerSpec
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
_MIN_COMPARED = 2
_BRANCHES_AT_UNKNOWN_SPEED = 4
_TYPICAL_ANSWER_TOKENS = 400
# How long the first round may take, by priority.
_FIRST_ROUND_S = {Priority.INTERACTIVE: 60.0, Priority.NORMAL: 180.0, Priority.BATCH: 600.0}


class Budget(Struct, frozen=True):
    """Seconds until the deadline, tokens of the prompt, and maximum tokens of the answer."""

    remaining_s: float
    prompt_tokens: int
    max_tokens: int


def derive_spec(request: TaskRequest, sandbox: BackendStatus) -> AnswerSpec:
    """The form of the answer and the checks that it has to pass.

    Raises SandboxUnavailable, with the reason, if code has to be run and can't be.
    """
    shape = _shape(request)
    language = languages.detect_for_request(request)
    if shape is Shape.TEXT:
        return AnswerSpec(
            shape,
            AnswerTarget(language, request.files),
            Checks(VerificationLevel.NONE),
            _ignored_tests_warning(request),
        )
    request = _recognize_tests(request, shape)
    target = _make_target(request, shape, language)
    chosen_checks = checks.choose_checks(request, target, sandbox.languages)
    if chosen_checks.needs_sandbox and not sandbox.available:
        raise SandboxUnavailable(
            f"this task runs code, but this machine has no usable sandbox: {sandbox.problem}"
            + (f" ({sandbox.remedy})" if sandbox.remedy else "")
        )
    return AnswerSpec(shape, target, chosen_checks, _unusable_tests_warning(request, chosen_checks))


def make_plan(
    request: TaskRequest,
    spec: AnswerSpec,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> ExecutionPlan:
    """Everything else that is fixed before the first token is generated."""
    branches, reason = _choose_branches(request, spec, model, settings, budget)
    return ExecutionPlan(
        persona=personas.choose_persona(request.persona, request.task_type),
        shape=spec.shape,
        language=spec.target.language,
        provider=model.provider,
        model=model.name,
        branches=branches,
        branches_reason=reason,
        strategy=request.strategy,
        level=_reachable_level(spec, branches, request.strategy),
        seed=secrets.randbits(31) if request.seed is None else request.seed,
        temperature=request.temperature,
        default_temperature=settings.temperature,
        max_tokens=budget.max_tokens,
        prompt_tokens=budget.prompt_tokens,
        context_tokens=model.context_tokens,
        repair_rounds=0 if spec.shape is Shape.TEXT else settings.repair_rounds,
    )


def _shape(request: TaskRequest) -> Shape:
    """By the type of the task; a custom task is about code if it comes with tests."""
    if request.task_type is TaskType.CUSTOM and request.tests:
        return Shape.CODE
    return _SHAPES.get(request.task_type, Shape.TEXT)


def _recognize_tests(request: TaskRequest, shape: Shape) -> TaskRequest:
    """The request with tests among its files taken as the caller's tests, if it names none."""
    if shape is Shape.TESTS or request.tests:
        return request
    tests = tuple(file for file in request.files if is_test(file.path, file.content))
    return replace(request, tests=tests)


def _make_target(request: TaskRequest, shape: Shape, language: str) -> AnswerTarget:
    stub = None
    if shape is Shape.CODE and language == languages.PYTHON:
        stub = stubs.find_stub(request.prompt)
    main = None
    if shape is not Shape.TESTS:
        main = caller_tests.find_imported_path(request.tests, request.files)
    found_examples = (
        examples.find_examples(request.prompt, stub) if language == languages.PYTHON else []
    )
    return AnswerTarget(
        language=language,
        files=request.files,
        main=main,
        stub=stub,
        tested=stub.name if stub else examples.find_tested_function(found_examples),
        writes_tests=shape is Shape.TESTS,
    )


def _reachable_level(
    spec: AnswerSpec, branches: int, strategy: CollapseStrategy
) -> VerificationLevel:
    """The level, lowered to syntax where there is no second candidate to compare with."""
    consensus = spec.checks.level is VerificationLevel.GENERATED_TESTS and spec.shape is Shape.CODE
    alone = branches < _MIN_COMPARED or strategy is CollapseStrategy.FIRST_SUCCESS
    return VerificationLevel.SYNTAX if consensus and alone else spec.checks.level


def _choose_branches(
    request: TaskRequest,
    spec: AnswerSpec,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> tuple[int, str]:
    """How many candidates, and why."""
    if request.branches is not None and request.branches < 1:
        raise InvalidInput.at("branches", "must be at least 1")
    if spec.shape is Shape.TEXT:
        return 1, "text is not verified, one answer is enough"
    if request.branches is not None:
        count = min(request.branches, settings.max_branches)
        capped = f", at most {settings.max_branches} allowed" if count < request.branches else ""
        return count, f"{request.branches} requested{capped}"
    if settings.branches:
        return min(settings.branches, settings.max_branches), "the administrator's setting"
    if spec.checks.level is VerificationLevel.NONE:
        return 1, "nothing can be verified, so no candidate could be preferred"
    return _affordable_branches(request, model, settings, budget)


def _affordable_branches(
    request: TaskRequest,
    model: ModelInfo,
    settings: AgentSettings,
    budget: Budget,
) -> tuple[int, str]:
    """As many candidates as the model can write in the time for the first round."""
    limit = max(1, min(settings.max_branches, model.max_parallel))
    speed = model.decode_tokens_per_second
    if not speed:
        return min(limit, _BRANCHES_AT_UNKNOWN_SPEED), "the model's speed is not known yet"
    seconds = min(budget.remaining_s / 2, _FIRST_ROUND_S[request.priority])
    tokens = min(budget.max_tokens, _TYPICAL_ANSWER_TOKENS)
    # As if they were written one after the other: batching only makes it faster.
    count = max(1, min(limit, int(seconds * speed / tokens)))
    return count, f"{speed:.0f} tokens/s leave time for it within {seconds:.0f} s"


def _ignored_tests_warning(request: TaskRequest) -> tuple[str, ...]:
    return ("tests are not run for a task that answers with text",) if request.tests else ()


def _unusable_tests_warning(request: TaskRequest, chosen: Checks) -> tuple[str, ...]:
    if not request.tests or chosen.level is VerificationLevel.CALLER_TESTS:
        return ()
    names = ", ".join(test.path for test in request.tests[:5])
    return (f"none of the tests in the request can be run here: {names}",)
