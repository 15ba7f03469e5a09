"""Converts tasks to answers: pure functions."""

from collections import Counter
from collections.abc import Sequence

from appliance.agents.code import languages
from appliance.agents.prompting.personas import choose_persona
from appliance.api.http.times import iso, iso_or_none
from appliance.api.monkey.schemas import (
    ArtifactAnswer,
    BranchAnswer,
    ErrorAnswer,
    ExecuteAnswer,
    MetadataAnswer,
    ResultAnswer,
    TaskAnswer,
    TaskListAnswer,
    TaskSummary,
    UsageAnswer,
    VerificationAnswer,
)
from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import (
    BranchReport,
    BranchStatus,
    ModelUsage,
    Persona,
    SourceFile,
    Task,
    TaskFailure,
    TaskKind,
    TaskRequest,
    TaskResult,
    TaskStatus,
)

STATUS_NAMES: dict[TaskStatus, str] = {
    TaskStatus.QUEUED: "pending",
    TaskStatus.RUNNING: "in_progress",
    TaskStatus.COMPLETED: "completed",
    TaskStatus.FAILED: "failed",
    TaskStatus.CANCELLED: "cancelled",
}
CANCELLED_CODE = "TASK_CANCELLED"

_PROMPT_CHARACTERS = 200


def task_answer(task: Task) -> ExecuteAnswer | TaskAnswer:
    """The whole task, in the form of its kind."""
    if task.kind == TaskKind.EXECUTE:
        return execute_answer(task)
    return TaskAnswer(
        task_id=task.public_id,
        kind=task.kind,
        status=STATUS_NAMES[task.status],
        error=_error(task),
        created_at=iso(task.created_at),
        started_at=iso_or_none(task.started_at),
        completed_at=iso_or_none(task.finished_at),
        execution_time=_seconds(task),
    )


def execute_answer(task: Task) -> ExecuteAnswer:
    """A task of the kind `execute`."""
    result = task.result
    seconds = _seconds(task)
    return ExecuteAnswer(
        task_id=task.public_id,
        execution_id=f"exec_{task.public_id.removeprefix('task_')}",
        status=STATUS_NAMES[task.status],
        result=result_answer(result) if result else None,
        error=_error(task),
        metadata=_metadata(task, seconds),
        usage=_usage(task, seconds),
        verification=_verification(result) if result else None,
        created_at=iso(task.created_at),
        started_at=iso_or_none(task.started_at),
        completed_at=iso_or_none(task.finished_at),
        execution_time=seconds,
    )


def result_answer(result: TaskResult) -> ResultAnswer:
    """The result: `code` for some clients, `result` for others."""
    return ResultAnswer(
        code=result.code,
        explanation=result.explanation,
        files_modified=[file.path for file in result.files],
        tests=result.tests,
        result=result.text if result.code is None else result.code,
        language=result.language,
        artifacts=[_artifact(file) for file in result.files],
        confidence_score=result.verification.score,
        warnings=list(result.warnings),
    )


def task_list(tasks: Sequence[Task], next_cursor: str | None) -> TaskListAnswer:
    return TaskListAnswer([_summary(task) for task in tasks], next_cursor)


def parse_status(name: str) -> TaskStatus | None:
    """The status for this dialect's name or the native one; None if unknown."""
    by_name = {word: status for status, word in STATUS_NAMES.items()}
    by_name |= {str(status): status for status in TaskStatus}
    return by_name.get(name)


def failure_answer(failure: TaskFailure) -> ErrorAnswer:
    return ErrorAnswer(failure.code, failure.message, failure.details)


def _error(task: Task) -> ErrorAnswer | None:
    if task.failure is not None:
        return failure_answer(task.failure)
    if task.status is TaskStatus.CANCELLED:
        return ErrorAnswer(CANCELLED_CODE, "the task was cancelled", {})
    return None


def _summary(task: Task) -> TaskSummary:
    request = task.request
    return TaskSummary(
        task_id=task.public_id,
        status=STATUS_NAMES[task.status],
        task_type=request.task_type if request else None,
        persona=_persona(request, task.result) if request else None,
        prompt=request.prompt[:_PROMPT_CHARACTERS] if request else "",
        created_at=iso(task.created_at),
        started_at=iso_or_none(task.started_at),
        completed_at=iso_or_none(task.finished_at),
        error=_error(task),
    )


def _persona(request: TaskRequest, result: TaskResult | None) -> Persona:
    """The one that answered or will answer: as requested, else by the type of the task."""
    answered = result.persona if result else None
    return answered or choose_persona(request.persona, request.task_type)


def _metadata(task: Task, seconds: float | None) -> MetadataAnswer:
    request, result = task.request_as(TaskRequest), task.result
    return MetadataAnswer(
        task_type=request.task_type,
        persona=_persona(request, result),
        execution_time=seconds,
        provider_used=result.provider if result else None,
        model=result.model if result else None,
        tokens_used=sum(each.usage.total_tokens for each in _usage_by_model(task)),
        tokens_per_second=_speed(result) if result else None,
        quantum_branches=sum(map(_was_generated, result.branches)) if result else 0,
        attempts=task.attempt,
    )


def _usage_by_model(task: Task) -> tuple[ModelUsage, ...]:
    result = task.result
    if result is None:
        return task.usage_by_model
    return result.usage_by_model or (ModelUsage(result.provider, result.model, result.usage),)


def _usage(task: Task, seconds: float | None) -> UsageAnswer | None:
    """None before the end, and if no model call was recorded."""
    by_model = _usage_by_model(task)
    if not task.result and not by_model:
        return None
    usage, by_provider = sum((each.usage for each in by_model), TokenUsage()), Counter[str]()
    for each in by_model:
        by_provider[each.provider] += each.usage.total_tokens
    return UsageAnswer(
        tokens_used=usage.total_tokens,
        tokens_input=usage.prompt_tokens,
        tokens_output=usage.completion_tokens,
        tokens_cached=usage.cached_tokens,
        provider_breakdown=dict(by_provider),
        cost_estimate=sum(each.cost or 0.0 for each in by_model),
        execution_time=seconds,
    )


def _verification(result: TaskResult) -> VerificationAnswer:
    verification = result.verification
    return VerificationAnswer(
        level=verification.level,
        passed=verification.passed,
        failed=verification.failed,
        score=verification.score,
        summary=verification.summary,
        output=verification.output,
        isolation=verification.isolation,
        chosen=result.chosen,
        branches=[_branch(branch) for branch in result.branches],
    )


def _branch(branch: BranchReport) -> BranchAnswer:
    verification = branch.verification
    return BranchAnswer(
        index=branch.index,
        round=branch.round,
        seed=branch.seed,
        temperature=branch.temperature,
        status=branch.status,
        level=verification.level,
        passed=verification.passed,
        failed=verification.failed,
        score=verification.score,
        summary=branch.problem or verification.summary,
        tokens=branch.usage.completion_tokens,
    )


def _artifact(file: SourceFile) -> ArtifactAnswer:
    name = file.path.rsplit("/", 1)[-1]
    kind = "code" if languages.detect_from_path(name) else "file"
    return ArtifactAnswer(name=name, filename=file.path, type=kind, content=file.content)


def _was_generated(branch: BranchReport) -> bool:
    return branch.status is not BranchStatus.CANCELLED and branch.usage.completion_tokens > 0


def _seconds(task: Task) -> float | None:
    if task.started_at is None or task.finished_at is None:
        return None
    return round(max(0.0, task.finished_at - task.started_at), 3)


def _speed(result: TaskResult) -> float | None:
    if result.generation_s <= 0:
        return None
    return round(result.usage.completion_tokens / result.generation_s, 1)
