"""The rounds of a task that answers with code: first round, consensus, repair, synthesis."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import Struct, structs

from appliance.agents.candidates import consensus, repair, synthesis
from appliance.agents.candidates.round import RoundRunner
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.run_context import RunContext
from appliance.agents.verification.verifier import Verifier
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy
from appliance.errors import ContextLengthExceeded, SandboxUnavailable, Unavailable


class RoundsResult(Struct, frozen=True):
    """The candidates of all rounds; `synthesized` is the one that combines others, if any."""

    candidates: list[Candidate]
    synthesized: Candidate | None = None


async def run_rounds(context: RunContext) -> RoundsResult:
    """Run all rounds that the plan asks for. Raises what the first round raises."""
    plan = context.plan
    verifier = Verifier(context.harness, context.spec.checks, context.spec.target)
    runner = RoundRunner(context, verifier)
    if not context.journal.generations:
        count = "one candidate" if plan.branches == 1 else f"{plan.branches} candidates"
        await context.journal.record_progress(f"writing {count}", "generate", 10)
    candidates = await runner.run(
        0, context.messages, plan.max_tokens, context.generation_budget_s()
    )
    if context.uses_consensus:
        candidates = await consensus.compare_candidates(context, candidates)
    for round_ in range(1, plan.repair_rounds + 1):
        if not repair.should_repair(context, candidates):
            break
        candidates = candidates + await _run_repair_round(context, runner, round_, candidates)
    if plan.strategy is not CollapseStrategy.COMBINED:
        return RoundsResult(candidates)
    synthesized = await _run_synthesis_round(context, verifier, candidates)
    if synthesized is None:
        return RoundsResult(candidates)
    return RoundsResult([*candidates, synthesized], synthesized)


async def _run_repair_round(
    context: RunContext, runner: RoundRunner, round_: int, candidates: Sequence[Candidate]
) -> list[Candidate]:
    prompt = await repair.build_repair_prompt(context, candidates)
    if prompt is None:
        return []
    await context.journal.record_progress(f"nothing passed: repair round {round_}", "repair", 80)
    repaired = await _run_optional_round(context, runner, round_, *prompt)
    if context.uses_consensus:
        return await consensus.compare_candidates(context, repaired)
    return repaired


async def _run_synthesis_round(
    context: RunContext, verifier: Verifier, candidates: Sequence[Candidate]
) -> Candidate | None:
    prompt = await synthesis.build_synthesis_prompt(context, candidates)
    if prompt is None:
        return None
    await context.journal.record_progress("combining the best candidates", "combine", 85)
    single_branch = replace(context, plan=structs.replace(context.plan, branches=1))
    runner = RoundRunner(single_branch, verifier)
    round_ = max(candidate.sampling.round for candidate in candidates) + 1
    synthesized = await _run_optional_round(context, runner, round_, *prompt)
    if context.uses_consensus and synthesized and context.journal.comparison_calls:
        judged = await consensus.judge_by_majority(
            [*candidates, *synthesized],
            context.journal.comparison_calls.calls,
            context.spec.target,
            context.harness,
        )
        synthesized = judged[len(candidates) :]
        await consensus.record_verdicts(context, synthesized)
    return synthesized[0] if synthesized and synthesized[0].solution else None


async def _run_optional_round(
    context: RunContext,
    runner: RoundRunner,
    round_: int,
    messages: Sequence[Message],
    max_tokens: int,
) -> list[Candidate]:
    """A round whose failure is a warning, since earlier rounds have candidates already."""
    try:
        return await runner.run(round_, messages, max_tokens, context.generation_budget_s())
    except SandboxUnavailable:
        raise
    except (ContextLengthExceeded, Unavailable) as error:
        context.warnings.append(f"round {round_} failed: {error.message}")
        return []
