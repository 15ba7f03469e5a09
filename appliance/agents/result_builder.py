"""The result of a task, out of its candidates."""

from collections.abc import Sequence
from itertools import groupby

from appliance.agents.code.answer_parser import Answer
from appliance.agents.code.solution import Solution
from appliance.agents.planner import Approach
from appliance.agents.run.agent_journal import Generated
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.context import Work
from appliance.agents.run.plan import Plan
from appliance.domain.messages import FinishReason, TokenUsage
from appliance.domain.tasks import (
    BranchReport,
    BranchStatus,
    SourceFile,
    TaskResult,
    Verification,
    VerificationLevel,
)


def of_candidates(work: Work, candidates: Sequence[Candidate], best: Candidate) -> TaskResult:
    """The best candidate as the answer."""
    plan, inputs = work.plan, work.journal.inputs
    beside = inputs.usage if inputs else TokenUsage()
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
        provider=plan.provider,
        model=plan.model,
        usage=sum((report.usage for report in reports), beside),
        generation_s=_generation_s(candidates),
        warnings=(*work.way.warnings, *work.warnings, *_about(plan, verification, best.generated)),
        persona=plan.persona,
    )


def of_text(plan: Plan, generated: Generated, parsed: Answer, way: Approach) -> TaskResult:
    """A text as the answer; code and files that it shows are passed on, nothing was verified."""
    shown = next(iter(parsed.blocks), None)
    verification = Verification(summary="text is not verified")
    report = BranchReport(
        index=0,
        round=0,
        seed=generated.seed,
        temperature=generated.temperature,
        status=BranchStatus.COMPLETED,
        verification=verification,
        usage=generated.usage,
    )
    return TaskResult(
        text=parsed.text,
        code=shown.content if shown else None,
        explanation=parsed.text,
        language=shown.language if shown else None,
        files=tuple(SourceFile(b.path, b.content) for b in parsed.blocks if b.path),
        tests=None,
        verification=verification,
        branches=(report,),
        chosen=0,
        provider=plan.provider,
        model=plan.model,
        usage=generated.usage,
        generation_s=generated.seconds,
        warnings=(*way.warnings, *_cut_off(plan, generated)),
        persona=plan.persona,
    )


def _generation_s(candidates: Sequence[Candidate]) -> float:
    """Wall time spent writing: the candidates of a round are written at the same time."""
    written = sorted((c.generated for c in candidates if c.generated), key=lambda g: g.key)
    rounds = groupby(written, key=lambda g: g.round)
    return round(sum(max(g.seconds for g in group) for _, group in rounds), 3)


def _about(plan: Plan, verification: Verification, generated: Generated | None) -> list[str]:
    """What a caller should know before using the answer."""
    found = _cut_off(plan, generated) if generated else []
    if verification.level is VerificationLevel.NONE:
        found.append("the code was not verified: nothing here can run or check it")
    elif verification.level is VerificationLevel.SYNTAX and verification.ok:
        found.append("only the syntax was checked: send tests or examples to have the code run")
    elif not verification.ok:
        found.append(f"no candidate passed; this is the best one: {verification.summary}")
    return found


def _cut_off(plan: Plan, generated: Generated) -> list[str]:
    if generated.finish_reason is not FinishReason.LENGTH:
        return []
    return [f"the answer was cut off at {plan.max_tokens} tokens; ask for more with max_tokens"]
