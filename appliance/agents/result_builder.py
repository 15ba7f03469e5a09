"""Builds the result of a task from its candidates or its text."""

from collections.abc import Sequence
from itertools import groupby

from appliance.agents.code.answer_parser import ParsedAnswer
from appliance.agents.code.solution import Solution
from appliance.agents.run.agent_journal import Generation
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.execution_plan import ExecutionPlan
from appliance.agents.run.model_usage import sum_by_model
from appliance.agents.run.run_context import RunContext
from appliance.domain.messages import FinishReason, TokenUsage
from appliance.domain.tasks import (
    BranchReport,
    BranchStatus,
    ModelUsage,
    SourceFile,
    TaskResult,
    Verification,
    VerificationLevel,
)


def build_code_result(
    context: RunContext, candidates: Sequence[Candidate], best: Candidate
) -> TaskResult:
    """The best candidate as the answer."""
    plan = context.plan
    usage = _usage_by_model(context, [c.generation for c in candidates if c.generation])
    solution = best.solution or Solution("", "")
    verification = best.verdict.verification if best.verdict else Verification()
    reports = tuple(candidate.report() for candidate in candidates)
    return TaskResult(
        text=solution.text,
        code=solution.code,
        explanation=solution.explanation,
        language=solution.language,
        files=solution.files,
        tests=solution.tests,
        verification=verification,
        branches=reports,
        chosen=candidates.index(best),
        provider=(best.generation and best.generation.provider) or plan.provider,
        model=(best.generation and best.generation.model) or plan.model,
        usage=sum((each.usage for each in usage), TokenUsage()),
        generation_s=_generation_s(candidates),
        warnings=(
            *context.spec.warnings,
            *context.warnings,
            *_answer_warnings(plan, verification, best.generation),
        ),
        persona=plan.persona,
        usage_by_model=usage,
    )


def build_text_result(
    context: RunContext, generation: Generation, answer: ParsedAnswer
) -> TaskResult:
    """A text as the answer, with the code and the files in it; nothing is verified."""
    plan = context.plan
    block = next(iter(answer.blocks), None)
    verification = Verification(summary="text is not verified")
    report = BranchReport(
        index=0,
        round=0,
        seed=generation.seed,
        temperature=generation.temperature,
        status=BranchStatus.COMPLETED,
        verification=verification,
        usage=generation.usage,
    )
    return TaskResult(
        text=answer.text,
        code=block.content if block else None,
        explanation=answer.text,
        language=block.language if block else None,
        files=tuple(SourceFile(b.path, b.content) for b in answer.blocks if b.path),
        tests=None,
        verification=verification,
        branches=(report,),
        chosen=0,
        provider=generation.provider or plan.provider,
        model=generation.model or plan.model,
        usage=generation.usage,
        generation_s=generation.seconds,
        warnings=(*context.spec.warnings, *_truncation_warning(plan, generation)),
        persona=plan.persona,
        usage_by_model=_usage_by_model(context, [generation]),
    )


def _usage_by_model(
    context: RunContext, generations: Sequence[Generation]
) -> tuple[ModelUsage, ...]:
    """What each model used: a request goes to the next model of its route if the first fails."""
    plan, compared = context.plan, context.journal.comparison_calls
    calls = (*generations, *((compared,) if compared else ()))
    return sum_by_model(calls, plan.provider, plan.model)


def _generation_s(candidates: Sequence[Candidate]) -> float:
    """Seconds spent on generation; the candidates of a round are generated concurrently."""
    generations = sorted((c.generation for c in candidates if c.generation), key=lambda g: g.key)
    rounds = groupby(generations, key=lambda g: g.round)
    return round(sum(max(g.seconds for g in group) for _, group in rounds), 3)


def _answer_warnings(
    plan: ExecutionPlan, verification: Verification, generation: Generation | None
) -> list[str]:
    """What a caller should know before using the answer."""
    warnings = _truncation_warning(plan, generation) if generation else []
    if verification.level is VerificationLevel.NONE:
        warnings.append("the code was not verified: nothing here can run or check it")
    elif verification.level is VerificationLevel.SYNTAX and verification.ok:
        warnings.append("only the syntax was checked: send tests or examples to have the code run")
    elif not verification.ok:
        warnings.append(f"no candidate passed; this is the best one: {verification.summary}")
    return warnings


def _truncation_warning(plan: ExecutionPlan, generation: Generation) -> list[str]:
    if generation.finish_reason is not FinishReason.LENGTH:
        return []
    return [f"the answer was cut off at {plan.max_tokens} tokens; ask for more with max_tokens"]
