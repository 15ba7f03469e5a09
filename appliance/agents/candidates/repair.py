"""Repair: whether a failed round is worth another one, and the prompt that shows the failure."""

from collections.abc import Sequence

from appliance.agents.candidates import collapse
from appliance.agents.prompting import prompt
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.run_context import RunContext
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy, VerificationLevel

# How much of a failure's output the prompt quotes: the first of these that fits.
_OUTPUT_CHARACTERS = (2000, 500, 0)


def should_repair(context: RunContext, candidates: Sequence[Candidate]) -> bool:
    """Whether no candidate passed, there is feedback, and time is left for a round like the last.

    Missing time is added to the warnings.
    """
    generations = [c.generation for c in candidates if c.generation is not None]
    if not generations or not _has_feedback(context, candidates) or any(c.ok for c in candidates):
        return False
    if context.generation_budget_s() < max(generation.seconds for generation in generations):
        context.warnings.append("no time was left to repair the failures")
        return False
    return True


async def build_repair_prompt(
    context: RunContext, candidates: Sequence[Candidate]
) -> tuple[list[Message], int] | None:
    """Messages that show the best failure, and the tokens left for the answer; None if too few."""
    best = collapse.rank_candidates(candidates, CollapseStrategy.BEST_SCORE)[0]
    if best.solution is None or best.verdict is None:
        return None
    for characters in _OUTPUT_CHARACTERS:
        messages = prompt.build_repair(
            context.messages, best.solution, best.verdict, characters, context.spec.target
        )
        max_tokens = await context.answer_tokens_after(messages)
        if max_tokens is not None:
            return messages, max_tokens
    context.warnings.append("the model's context is too short for the answer and its failure")
    return None


def _has_feedback(context: RunContext, candidates: Sequence[Candidate]) -> bool:
    """Disagreement between candidates is no feedback; a syntax error or a failed test is."""
    if context.uses_consensus:
        levels = [c.verdict.verification.level for c in candidates if c.verdict]
        return VerificationLevel.GENERATED_TESTS not in levels
    return context.plan.level is not VerificationLevel.NONE
